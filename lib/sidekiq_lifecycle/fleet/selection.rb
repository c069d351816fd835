# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Selects processes: those that match one of the patterns (all, if there are none) and none of the exceptions.
    #
    # A pattern is a shell glob. It is compared with the hostname, the tag, each label, each queue and Sidekiq's version
    # of a process. A pattern with a colon is also compared with its name and its identity, as the table shows them.
    # `FIELD=GLOB` is compared with one of these fields. Several patterns joined with commas must all match.
    class Selection
      # The fields that a pattern can name.
      FIELDS = {
        "hostname" => ->(process) { [process.hostname] },
        "tag" => ->(process) { [process.tag] },
        "label" => lambda(&:labels),
        "queue" => lambda(&:queues),
        "version" => ->(process) { [process.version] },
        "process" => ->(process) { [process.name] },
        "identity" => ->(process) { [process.full_name] }
      }.freeze

      # A pattern without a field is compared with these only if it has a colon, as they have. Otherwise the random end
      # of an identity would match `*1` by chance.
      BY_COLON = %w[process identity].freeze
      private_constant :BY_COLON

      # @param matching [String, Array<String>, nil] patterns; nil: all
      # @param except [String, Array<String>, nil] patterns
      # @raise [ArgumentError] if there is no such field, or something is not a pattern
      def initialize(matching: nil, except: nil)
        # A computed list that is empty must not select every process.
        raise ArgumentError, "match is empty; leave it out to mean all processes" if matching == []

        @matching = listed(matching)
        @except = listed(except)
        @patterns = @matching.map { |pattern| parse(pattern) }
        @exceptions = @except.map { |pattern| parse(pattern) }
      end

      # @param process [Process]
      # @return [Boolean]
      def include?(process)
        (@patterns.empty? || any?(@patterns, process)) && !any?(@exceptions, process)
      end

      # @return [Boolean] whether every process is selected
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
        raise ArgumentError, not_a_pattern(wrong) if wrong

        list
      end

      def parse(pattern)
        "#{pattern},".split(",", -1)[..-2].map do |part|
          field, glob = part.include?("=") ? part.split("=", 2) : [nil, part]
          raise ArgumentError, not_a_pattern(pattern) if glob.empty?

          [field ? [field_named(field)] : fields_for(glob), glob]
        end
      end

      def not_a_pattern(text) = "#{text.inspect} is not a pattern; write one such as worker-* or tag=shop"

      def fields_for(glob) = glob.include?(":") ? FIELDS.values : FIELDS.except(*BY_COLON).values

      def field_named(name)
        FIELDS.fetch(name) { raise ArgumentError, "there is no field #{name}; use one of #{FIELDS.keys.join(", ")}" }
      end

      def any?(patterns, process)
        patterns.any? do |parts|
          parts.all? do |fields, glob|
            fields.any? { |field| field.call(process).compact.any? { |value| File.fnmatch?(glob, value.to_s) } }
          end
        end
      end
    end
  end
end
