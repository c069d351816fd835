# frozen_string_literal: true

require "json"
require "net/http"
require "timeout"
require "uri"

module SidekiqLifecycle
  class TaskProtection
    # The ECS agent's endpoint for a task: `PUT $ECS_AGENT_URI/task-protection/v1/state` (ECS developer guide, "Task
    # scale-in protection endpoint"). Its responses are in the agent's source,
    # `ecs-agent/tmds/handlers/taskprotection/v1/handlers/handlers.go`.
    #
    # @api private
    class Agent
      # Why a request failed. `permanent`: it will fail again until somebody changes something.
      Failure = Struct.new(:message, :permanent)

      # Seconds to connect.
      CONNECT = 2

      # Seconds to wait for a response. The agent gives up on the ECS API after 4 s and reports that, so no late success
      # can follow.
      ANSWER = 5

      # Seconds for the whole request.
      TOTAL = 6

      # What to do, by the agent's error code.
      ADVICE = {
        "AccessDeniedException" => "allow ecs:UpdateTaskProtection and ecs:GetTaskProtection in the task role " \
                                   "(taskRoleArn, not the execution role)",
        "TASK_NOT_VALID" =>
          "only tasks of a service can be protected; set ecs_task_protection to false in a standalone task",
        "DEPLOYMENT_BLOCKED" =>
          "the service has more protected tasks than its desired count; wait for some to end, or raise the count"
      }.freeze

      # Codes of temporary failures that the API answers with 400 (`ThrottlingException`, `ExpiredTokenException`).
      TEMPORARY = /throttl|expired/i

      # @param uri [String] `$ECS_AGENT_URI`
      # @return [Agent, nil] nil if that is not an http address
      def self.at(uri)
        endpoint = URI("#{uri.chomp("/")}/task-protection/v1/state")
        new(endpoint) if endpoint.is_a?(URI::HTTP) && endpoint.host
      rescue StandardError # it is not an address
        nil
      end

      def initialize(endpoint)
        @endpoint = endpoint
      end

      # @param minutes [Integer] 1 to 2880, from now
      # @return [Failure, nil]
      def protect(minutes) = put(ProtectionEnabled: true, ExpiresInMinutes: minutes)

      # @return [Failure, nil]
      def release = put(ProtectionEnabled: false)

      private

      def put(state)
        response = Timeout.timeout(TOTAL) { send_request(state) }
        failure_of(response.code.to_i, parse(response.body), state)
      rescue StandardError => e
        Failure.new("#{@endpoint}: #{Text.error(e)}", false)
      end

      # Ignores $http_proxy, because the address is inside the task. Net::HTTP must not retry by itself.
      def send_request(state)
        http = Net::HTTP.new(@endpoint.host, @endpoint.port, nil)
        http.use_ssl = @endpoint.scheme == "https"
        http.open_timeout = CONNECT
        http.read_timeout = http.write_timeout = ANSWER
        http.max_retries = 0
        http.start { http.request(request(state)) }
      end

      def request(state)
        Net::HTTP::Put.new(@endpoint, "Content-Type" => "application/json").tap do |request|
          request.body = JSON.generate(state)
        end
      end

      def parse(body)
        answer = JSON.parse(body.to_s)
        answer.is_a?(Hash) ? answer : {}
      rescue JSON::ParserError
        {}
      end

      # The agent also answers 200 if a task cannot be protected.
      def failure_of(status, answer, state)
        return if status == 200 && answer.dig("protection", "ProtectionEnabled") == state[:ProtectionEnabled]

        code, detail = answer["failure"]&.values_at("Reason", "Detail") || answer["error"]&.values_at("Code", "Message")
        Failure.new([describe(status, code, detail), ADVICE[code]].compact.join("; "), permanent?(status, code))
      end

      def describe(status, code, detail)
        reason = [code, detail].map(&:to_s).reject(&:empty?).join(": ")
        reason.empty? ? "the agent answered #{status}" : "the agent answered #{status}, #{reason}"
      end

      def permanent?(status, code)
        return code == "TASK_NOT_VALID" if status == 200

        status.between?(400, 499) && status != 429 && !TEMPORARY.match?(code.to_s)
      end
    end
  end
end
