# frozen_string_literal: true

# Writes docs/wrappers.md: ruby script/wrappers.rb <MEASURED
# Or compares it with the measurement: ruby script/wrappers.rb --check docs/wrappers.md <MEASURED
# MEASURED is what spec/containers/wrappers_spec.rb wrote, one JSON object a line.

require "json"
require_relative "../spec/support/wrapper"

UNKNOWN = "–"

measured = $stdin.map { |line| JSON.parse(line) }.to_h { |line| [line.values_at("form", "mode"), line] }

def cell(line)
  return UNKNOWN unless line

  inside, host, happened = line.values_at("inside", "host", "happened")
  verdict = inside == host ? inside : "#{inside}; from the host #{host}"
  "#{verdict} · #{happened}"
end

def code(text) = "`#{text.gsub("|", "\\|")}`"

def row(name, cells) = "| #{code(name)} | #{cells.join(" | ")} |"

def table(measured)
  rows = LaunchForm.wrapped.map do |form|
    row(form.name, Wrapper::MODES.keys.map { |mode| cell(measured[[form.name, mode]]) })
  end
  ["| the container's command | #{Wrapper::MODES.values.join(" | ")} |", "|---|#{"---|" * Wrapper::MODES.size}", *rows]
end

if ARGV.first == "--check"
  known = File.readlines(ARGV.fetch(1), chomp: true)
  wrong = measured.values.reject do |line|
    column = Wrapper::MODES.keys.index(line["mode"])
    found = known.find { |row| row.start_with?("| #{code(line["form"])} |") }
    found && found.delete_prefix("| ").split(/(?<!\\) \| ?/)[column + 1] == cell(line)
  end
  wrong.each { |line| puts "#{ARGV.fetch(1)} does not say of #{line["form"]} (#{line["mode"]}): #{cell(line)}" }
  exit(wrong.empty? && measured.any?)
end

puts <<~MARKDOWN
  # What the doctor reports, and what happens

  `bin/test --full` writes this file from its measurements with Sidekiq 7. It launched each command in a real container, with one job that does not
  finish and another that finishes soon. `sidekiq` stands for `#{LaunchForm::TARGET}`, which needs 9 s. The doctor ran inside the container and on its host; then
  `docker stop -t #{Wrapper::STOP_TIMEOUT}` stopped the container. [Programs in front of Sidekiq](in-front.md) explains what to do.

  | the doctor reported | |
  |---|---|
  | safe | the signal arrives, and Sidekiq has enough time |
  | loses jobs | the signal does not arrive, or Sidekiq does not have enough time |
  | could not tell | a program in between decides, and the doctor cannot see how |

  | what happened | |
  |---|---|
  | saved | one job has finished, the other is back in Redis |
  | lost | Sidekiq was killed, and a job is lost |

  #{table(measured).join("\n")}
MARKDOWN
