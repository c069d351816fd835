# frozen_string_literal: true

require "time"

# Compares JSON with the tables of docs/json.md.
module DocumentedJSON
  PAGE = File.expand_path("../../docs/json.md", __dir__)

  # The chapters on the parts of an examined Sidekiq.
  EXAMINED = { "signal_path" => "The examined signal path", "relay" => "The examined relay",
               "time" => "The examined time", "health" => "The examined directory",
               "measured" => "The measurement" }.freeze

  # @return [Hash{String => Hash{String => String}}] heading => field => type
  def json_tables
    File.read(PAGE).split(/^## /).drop(1).to_h do |chapter|
      [chapter.lines.first.chomp, chapter.scan(/^\| `(\w+)` \| ([^|]+) \|/).to_h]
    end
  end

  # @param but [Array<String>] fields of the table that the object does not have
  def compare(object, table, but: [])
    expect(object.keys).to match_array(table.keys - but)
    wrong = object.reject { |field, value| type?(value, table.fetch(field)) }
    expect(wrong).to be_empty
  end

  # @param report [Hash] the doctor's
  def compare_examined(report)
    compare(report, json_tables.fetch("The doctor's report"))
    report["sidekiqs"].each do |sidekiq|
      compare(sidekiq, json_tables.fetch("An examined Sidekiq"))
      sidekiq["signal_path"]["links"].each { |link| compare(link, json_tables.fetch("A link of the path")) }
      EXAMINED.each { |field, chapter| compare(sidekiq[field], json_tables.fetch(chapter)) if sidekiq[field] }
    end
  end

  private

  def type?(value, type)
    case type
    when / or null\z/ then value.nil? || type?(value, type.delete_suffix(" or null"))
    when "string" then value.is_a?(String)
    when "integer" then value.is_a?(Integer)
    when "number" then value.is_a?(Numeric)
    when "boolean" then [true, false].include?(value)
    when "time" then Time.iso8601(value).utc?
    when "object" then value.is_a?(Hash)
    when "list of strings" then value.all?(String)
    when "list of objects" then value.all?(Hash)
    else raise "docs/json.md has a type of its own: #{type}"
    end
  end
end
