# frozen_string_literal: true

require "time"
require_relative "../text"

module SidekiqLifecycle
  class Fleet
    # Formats numbers, durations and lists for people.
    #
    # @api private
    module Format
      # How many items a list names.
      NAMED = 5

      module_function

      # "1 job", "2 jobs"
      def count(number, one, several = "#{one}s") = "#{number} #{number == 1 ? one : several}"

      # A duration in its two largest units, as the native commands print it.
      def duration(seconds) = Native.format_duration(seconds.to_f)

      # A duration to compare: short ones to a tenth of a second.
      def exact(seconds)
        return "#{(seconds * 1000).round} ms" if seconds < 0.9995

        seconds < 59.95 ? "#{seconds.round(1).to_s.delete_suffix(".0")} s" : duration(seconds.round)
      end

      # A time for machines.
      def iso(time) = Time.at(time).round(3).utc.iso8601(3)

      # Redis keeps any bytes; JSON and terminals need UTF-8.
      def readable(bytes)
        return bytes if bytes.encoding == Encoding::UTF_8 && bytes.valid_encoding?

        bytes.dup.force_encoding(Encoding::UTF_8).scrub
      end

      # Several lines for a terminal or a webhook, without invisible characters.
      def lines(text) = text.to_s.split("\n", -1).map { |line| Text.one_line(line) }.join("\n")

      # The first few of many items.
      def list(items)
        more = items.size - NAMED
        [*items.first(NAMED), *("and #{more} more" if more.positive?)].join("; ")
      end
    end
  end
end
