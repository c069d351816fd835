# frozen_string_literal: true

# Writes docs/launch-forms.md: ruby script/launch_forms.rb OLD <MEASURED
# MEASURED is what the container specs wrote, one JSON object a line; what is not in it is taken from OLD.

require "json"
require_relative "../spec/support/launch_forms"

HEADINGS = {
  %w[TERM off] => "`docker stop`, untouched", %w[TERM auto] => "with the relay",
  %w[TSTP off] => "TSTP, untouched", %w[TSTP auto] => "with the relay"
}.freeze
RUN_HEADINGS = { %w[TERM off] => "`docker stop`", %w[TSTP off] => "TSTP" }.freeze
MAJORS = [6, 7, 8].freeze
UNKNOWN = "–"

# A cell with the result of each major: "lost", or "6: lost · 7: done" if they differ.
def parse(cell)
  return MAJORS.to_h { |major| [major, cell] } unless cell.match?(/\A\d: /)

  cell.split(" · ").to_h { |part| part.split(": ", 2).then { |major, result| [major.to_i, result] } }
end

def show(results)
  known = results.reject { |_, result| result == UNKNOWN }
  return UNKNOWN if known.empty?
  return known.values.first if known.size == MAJORS.size && known.values.uniq.size == 1

  known.sort.map { |major, result| "#{major}: #{result}" }.join(" · ")
end

def code(text) = text.include?("`") ? text : "`#{text.gsub("|", "\\|")}`"

cells = Hash.new { |hash, key| hash[key] = {} }
old = File.exist?(ARGV.fetch(0)) ? File.read(ARGV.fetch(0)) : ""
old.each_line(chomp: true).grep(/\A\| `/).each do |line|
  name, *row = line.delete_prefix("| ").delete_suffix(" |").split(/(?<!\\) \| /)
  # The tables that explain the words have no such row.
  headings = [HEADINGS, RUN_HEADINGS].find { |some| some.size == row.size }
  headings&.keys&.zip(row) { |column, cell| cells[[name, column]] = parse(cell) }
end
$stdin.each_line do |line|
  measured = JSON.parse(line)
  cells[[code(measured["form"]), measured.values_at("signal", "relay")]][measured["sidekiq"]] = measured["result"]
end

def table(forms, headings, cells)
  rows = forms.map do |form|
    name = code(form.name)
    "| #{name} | #{headings.keys.map { |column| show(cells[[name, column]]) }.join(" | ")} |"
  end
  <<~MARKDOWN
    | the container's command | #{headings.values.join(" | ")} |
    |---|#{"---|" * headings.size}
    #{rows.join("\n")}
  MARKDOWN
end

def chapters(forms, headings, cells)
  forms.group_by(&:group).each { |name, group| puts "\n## #{name}\n\n#{table(group, headings, cells)}" }
end

puts <<~MARKDOWN
  # Launch forms, and what a signal to the container does

  `bin/test --full` writes this file from its measurements. It launched each form in a real container, as an ordinary user without
  any capability, with Sidekiq 6.4, 7.3 and 8.1. If a cell names no major version, all three gave the same result.

  `sidekiq` stands for `#{LaunchForm::TARGET}`. One of its threads had a job that finished a second after the signal, the other a
  job that outlasts any shutdown. The gem was installed in each container. *Untouched* means `signal_relay = :off`. The table of `run`
  was measured without the relay too: there `run` saves the jobs.

  Yama, which Ubuntu and Docker Desktop enable, forbids tracing, so the relay cannot help there: see [yama.md](yama.md).

  | `docker stop` | |
  |---|---|
  | done | Sidekiq has shut down: one job has finished, the other is back in Redis; `ready` was gone before |
  | lost | Sidekiq was killed, in most cases without having received SIGTERM, and its jobs are lost |
  | exit | the container's exit code, if it is not 0 |

  | `docker kill -s TSTP` | |
  |---|---|
  | quiet | Sidekiq takes no more jobs, keeps working on the running ones, and shuts down normally when it is stopped |
  | frozen | a process of the container is suspended, as if by SIGSTOP |
  | lost | Sidekiq never received the signal |
MARKDOWN
chapters(LaunchForm.all, HEADINGS, cells)
chapters(LaunchForm.with_run, RUN_HEADINGS, cells)
puts "\n## The scripts\n"
used = (LaunchForm.all + LaunchForm.with_run).map(&:script)
scripts = LaunchForm::SCRIPTS.slice(*(LaunchForm::SCRIPTS.keys & used))
scripts.each { |name, text| puts "\n#{name[0].upcase}#{name[1..]}:\n\n```sh\n#{text.chomp}\n```" }
