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
        wrong = list.grep_v(String)
        return list if wrong.empty?

        raise ArgumentError, "#{wrong.first.inspect} is not a pattern: write one, such as worker-* or tag=shop"
      end

      # The native extension knows the grammar, because the command line has it as well.
      def parse(pattern)
        Native.parse_pattern(pattern).map { |field, glob| [field ? [FIELDS.fetch(field)] : fields_for(glob), glob] }
      rescue SidekiqLifecycle::Error, EncodingError => e
        raise ArgumentError, "#{pattern.inspect} is not a pattern: #{e.message}"
      end

      def fields_for(glob) = glob.include?(":") ? FIELDS.values : FIELDS.except(*BY_COLON).values

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
