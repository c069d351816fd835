# frozen_string_literal: true

# Writes docs/kill-matrix.md: ruby script/kill_matrix.rb <MEASURED
# Or compares all but the seconds: ruby script/kill_matrix.rb --check docs/kill-matrix.md <MEASURED
# MEASURED is what spec/containers/kill_spec.rb wrote, one JSON object a line.

require "json"
require_relative "../spec/support/launch_forms"
require_relative "../spec/support/killed_container"

STAYS = "stays"
UNKNOWN = "–"
COLUMNS = [KilledContainer::OFF, *KilledContainer::RELAYS].freeze
FORMS = LaunchForm.traced.to_h { |form| [form.name, form] }.freeze
# The major with all combinations.
WHOLE = 7
# How much longer it may take with the relay.
TOLERANCE = 2

def code(text) = "`#{text.gsub("|", "\\|")}`"

class Measured
  def initialize(lines)
    @lines = lines
    @seconds = lines.to_h { |line| [line.values_at("sidekiq", "form", "worker", "way", "relay"), line["seconds"]] }
  end

  attr_reader :lines

  def show(*key)
    return UNKNOWN unless @seconds.key?(key)

    @seconds[key]&.to_s || STAYS
  end

  # Whether a container with a relay was gone in time; nil if that is not known.
  def in_time?(line)
    return false unless line["seconds"]

    off = @seconds[[*line.values_at("sidekiq", "form", "worker", "way"), KilledContainer::OFF]]
    off && line["seconds"] <= off_or_kill(line, off) + TOLERANCE
  end

  private

  # Where a SIGTERM ends the container at once, with its jobs, the relay holds it until the worker has shut down or the
  # platform kills it.
  def off_or_kill(line, off)
    held = line["way"] == "stop" && FORMS.fetch(line["form"]).ends_early?
    held ? [off, KilledContainer::STOP_TIMEOUT].max : off
  end
end

def summary(measured)
  rows = measured.lines.reject { |line| line["relay"] == KilledContainer::OFF }.group_by { |line| line["sidekiq"] }.sort
  rows.map! do |major, lines|
    compared = lines.map { |line| measured.in_time?(line) }.compact
    gone = lines.count { |line| line["seconds"] }
    "| #{major} | #{lines.size} | #{gone} | #{compared.size} | #{compared.count(false)} |"
  end
  heading = "| Sidekiq | killed with a relay | gone | compared with the relay off | later than allowed |"
  [heading, "|---|---|---|---|---|", *rows].join("\n")
end

def table(way, measured)
  rows = FORMS.keys.map do |form|
    cells = KilledContainer::WORKERS.keys.map do |worker|
      off, *on = COLUMNS.map { |relay| measured.show(WHOLE, form, worker, way, relay) }
      "#{off} · #{on.join(" ")}"
    end
    "| #{code(form)} | #{cells.join(" | ")} |"
  end
  heading = "| the container's command | #{KilledContainer::WORKERS.keys.join(" | ")} |"
  [heading, "|---|#{"---|" * KilledContainer::WORKERS.size}", *rows].join("\n")
end

# A table as data: [form, worker, way, relay] => whether it was gone; without those that were not measured.
def read(text)
  way = nil
  text.each_line(chomp: true).with_object({}) do |line, verdicts|
    way = KilledContainer::WAYS.key(line[/\A## `(.*)`/, 1]) || way
    next unless way && line.start_with?("| `")

    form, *cells = line.delete_prefix("| ").delete_suffix(" |").split(/(?<!\\) \| /)
    KilledContainer::WORKERS.keys.zip(cells) do |worker, cell|
      COLUMNS.zip(cell.sub(" · ", " ").split) do |relay, seconds|
        verdicts[[form, worker, way, relay]] = seconds != STAYS unless seconds == UNKNOWN
      end
    end
  end
end

# What stayed, what stays according to the table, and the forms that are not in it.
def differences(old, measured)
  verdicts = read(old)
  forms = verdicts.keys.map(&:first)
  measured.lines.filter_map do |line|
    key = [code(line["form"]), *line.values_at("worker", "way", "relay")]
    gone = !line["seconds"].nil?
    next if gone && verdicts.fetch(key, forms.include?(key.first))

    "Sidekiq #{line["sidekiq"]}: #{key.join(", ")}: #{gone ? "gone" : STAYS}; the table says something else, or nothing"
  end
end

measured = Measured.new($stdin.each_line.map { |line| JSON.parse(line) })
if ARGV.first == "--check"
  found = differences(File.read(ARGV.fetch(1)), measured)
  puts found
  exit found.empty? && measured.lines.any?
end

puts <<~MARKDOWN
  # Whether a container can be killed, and how long it takes

  `bin/test --full` writes this file from its measurements. The relay traces shells and small inits, including PID 1, so it must
  never keep one of them from dying. Each command below was launched in a real container, as an ordinary user without any
  capability, in every combination of these:

  | the worker | |
  |---|---|
  #{KilledContainer::WORKERS.map { |name, text| "| #{name} | #{text} |" }.join("\n")}

  | the relay | |
  |---|---|
  | off | `signal_relay = :off`: what the platform does without it |
  | alive | runs as it does by default |
  | stopped | received a SIGSTOP just before |
  | killed | received a SIGKILL before |

  `sidekiq` stands for `#{LaunchForm::TARGET.sub("-t 5", "-t #{KilledContainer::TIMEOUT}")}`. If a program waited for a worker
  that never exits by itself, it would still exist after two minutes. A cell shows the seconds until the container was gone: with the relay off · alive, stopped, killed. *#{STAYS}*
  means that the container still existed after #{KilledContainer::LIMIT} s, and #{UNKNOWN} that the case was not measured.

  A case counts as *later than allowed* if it takes #{TOLERANCE} s longer than with the relay off. There is one exception. In some forms a SIGTERM ends the
  container at once, and its jobs are lost (a trap that exits; an init with a shell below it). There the relay correctly delays the end while the
  worker shuts down, so the time counts from the end of Docker's stop timeout, #{KilledContainer::STOP_TIMEOUT} s.

  #{summary(measured)}

  The tables show Sidekiq #{WHOLE}, with which everything was measured. With the other versions, a sample was measured.
MARKDOWN
KilledContainer::WAYS.each { |way, name| puts "\n## `#{name}`\n\n#{table(way, measured)}" }
