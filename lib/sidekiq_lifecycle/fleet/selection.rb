# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Which processes are meant: those that match one of the patterns (or all, without any) and none of the exceptions.
    #
    # A pattern is a shell glob, compared with the hostname, the tag, each label, each queue and Sidekiq's version of a
    # process; one with a colon also with its name and its identity, as the table shows them; `FIELD=GLOB` with one of
    # these. Where several are joined with commas, all have to match.
    class Selection
      # The fields that a pattern may name.
      FIELDS = {
        "hostname" => ->(member) { [member.hostname] },
        "tag" => ->(member) { [member.tag] },
        "label" => lambda(&:labels),
        "queue" => lambda(&:queues),
        "version" => ->(member) { [member.version] },
        "process" => ->(member) { [member.name] },
        "identity" => ->(member) { [member.full_name] }
      }.freeze

      # With these a pattern is compared by itself only if it has a colon, as they have: the random end of an identity
      # would match `*1` by chance.
      BY_COLON = %w[process identity].freeze
      private_constant :BY_COLON

      # @param matching [String, Array<String>, nil] patterns; nil: all
      # @param except [String, Array<String>, nil] patterns
      # @raise [ArgumentError] if there is no such field, or a pattern is empty or none
      def initialize(matching: nil, except: nil)
        # A list that came out empty means nobody, which nobody asks for; least of all does it mean everybody.
        raise ArgumentError, "match is empty; leave it out to mean all processes" if matching == []

        @matching = listed(matching)
        @except = listed(except)
        @patterns = @matching.map { |pattern| parse(pattern) }
        @exceptions = @except.map { |pattern| parse(pattern) }
      end

      # @param member [Member]
      # @return [Boolean]
      def include?(member)
        (@patterns.empty? || any?(@patterns, member)) && !any?(@exceptions, member)
      end

      # @return [Boolean] every process is meant
      def all? = @matching.empty? && @except.empty?

      # @return [String] "A or B but not C", or "not C"
      def to_s
        exceptions = "not #{@except.join(" nor ")}" unless @except.empty?
        @matching.empty? ? exceptions.to_s : [@matching.join(" or "), *exceptions].join(" but ")
      end

      private

      def listed(patterns)
        list = patterns.is_a?(Array) ? patterns : [*patterns]
        wrong = list.find { |pattern| !pattern.is_a?(String) }
        raise ArgumentError, "#{wrong.inspect} is no pattern; write one such as worker-* or tag=shop" if wrong

        list
      end

      def parse(pattern)
        "#{pattern},".split(",", -1)[..-2].map do |part|
          field, glob = part.include?("=") ? part.split("=", 2) : [nil, part]
          raise ArgumentError, "#{pattern.inspect} is no pattern; write one such as worker-* or tag=shop" if glob.empty?

          [field ? [field_named(field)] : fields_for(glob), glob]
        end
      end

      def fields_for(glob) = glob.include?(":") ? FIELDS.values : FIELDS.except(*BY_COLON).values

      def field_named(name)
        FIELDS.fetch(name) { raise ArgumentError, "there is no field #{name}; use one of #{FIELDS.keys.join(", ")}" }
      end

      def any?(patterns, member)
        patterns.any? do |parts|
          parts.all? do |fields, glob|
            fields.any? { |field| field.call(member).compact.any? { |value| File.fnmatch?(glob, value.to_s) } }
          end
        end
      end
    end
  end
end
