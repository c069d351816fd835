# frozen_string_literal: true

require "fileutils"

desc "Build the native extension and the native command into lib/, to use the gem from this checkout"
task :compile do
  FileUtils.mkdir_p("tmp/native")
  Dir.chdir("tmp/native") do
    ruby "../../ext/sidekiq_lifecycle/extconf.rb"
    sh "make", "install", "sitearchdir=#{File.expand_path("../lib", __dir__)}"
  end
end
