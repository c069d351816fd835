# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Numbers, stretches of time and lists, as people say them.
    #
    # @api private
    module Words
      # How many things a list names.
      NAMED = 5

      module_function

      # "1 job", "2 jobs"
      def count(number, one, several = "#{one}s") = "#{number} #{number == 1 ? one : several}"

      # A stretch of time in its two largest units.
      def span(seconds)
        seconds = seconds.round
        minutes = seconds / 60
        hours = seconds / 3600
        return "#{seconds} s" if minutes.zero?
        return both("#{minutes} min", seconds % 60, "s") if hours.zero?

        both("#{hours} h", minutes % 60, "min")
      end

      # "1 h 5 min", or "1 h" where nothing is left
      def both(large, number, unit) = number.zero? ? large : "#{large} #{number} #{unit}"

      # What Redis keeps may be any bytes; JSON and terminals want UTF-8.
      def readable(bytes) = bytes.dup.force_encoding(Encoding::UTF_8).scrub

      # Several lines for a terminal or a webhook, none with more in it than is seen.
      def lines(text) = text.to_s.split("\n", -1).map { |line| Text.one_line(line) }.join("\n")

      # The first few of many.
      def list(things)
        more = things.size - NAMED
        [*things.first(NAMED), *("and #{more} more" if more.positive?)].join("; ")
      end
    end
  end
end
