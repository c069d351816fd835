# frozen_string_literal: true

desc "Check style, types and documentation"
task :lint do
  sh "script/lint"
end
