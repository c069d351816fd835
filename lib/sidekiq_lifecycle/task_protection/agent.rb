# frozen_string_literal: true

require "json"
require "net/http"
require "timeout"
require "uri"

module SidekiqLifecycle
  class TaskProtection
    # The agent of ECS as a task sees it: `PUT $ECS_AGENT_URI/task-protection/v1/state` (ECS developer guide, "Task
    # scale-in protection endpoint"; what it answers is in the agent's source,
    # `ecs-agent/tmds/handlers/taskprotection/v1/handlers/handlers.go`).
    #
    # @api private
    class Agent
      # Why it was not done. `lasting`: it will be the same the next time, until somebody changes something.
      Trouble = Struct.new(:text, :lasting)

      # Seconds until there has to be a connection.
      CONNECT = 2

      # Seconds until there has to be an answer. The agent gives up on the API of ECS after 4, and says so; who has
      # waited longer knows that no late success will follow.
      ANSWER = 5

      # Seconds for all of it.
      TOTAL = 6

      # What people can do, by the agent's own code for it.
      ADVICE = {
        "AccessDeniedException" => "allow ecs:UpdateTaskProtection and ecs:GetTaskProtection in the task role " \
                                   "(taskRoleArn, not the execution role)",
        "TASK_NOT_VALID" =>
          "only tasks of a service can be protected; set ecs_task_protection to false in a standalone task",
        "DEPLOYMENT_BLOCKED" =>
          "the service has more protected tasks than its desired count; wait for some to end, or raise the count"
      }.freeze

      # Codes of what passes, though the API answers them with 400 (`ThrottlingException`, `ExpiredTokenException`).
      PASSING = /throttl|expired/i

      # @param uri [String] `$ECS_AGENT_URI`
      # @return [Agent, nil] nil if that is no http address
      def self.at(uri)
        endpoint = URI("#{uri.chomp("/")}/task-protection/v1/state")
        new(endpoint) if endpoint.is_a?(URI::HTTP) && endpoint.host
      rescue StandardError # whatever stands there, it is no address
        nil
      end

      def initialize(endpoint)
        @endpoint = endpoint
      end

      # @param minutes [Integer] 1 to 2880, from now
      # @return [Trouble, nil]
      def protect(minutes) = put(ProtectionEnabled: true, ExpiresInMinutes: minutes)

      # @return [Trouble, nil]
      def release = put(ProtectionEnabled: false)

      private

      def put(state)
        response = Timeout.timeout(TOTAL) { send_request(state) }
        trouble_of(response.code.to_i, parse(response.body), state)
      rescue StandardError => e
        Trouble.new("#{@endpoint}: #{Text.error(e)}", false)
      end

      # An address in the task is not to be asked through anybody's $http_proxy. Net::HTTP would try again by itself.
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

      # A task that cannot be protected is answered with 200 as well.
      def trouble_of(status, answer, state)
        return if status == 200 && answer.dig("protection", "ProtectionEnabled") == state[:ProtectionEnabled]

        code, detail = answer["failure"]&.values_at("Reason", "Detail") || answer["error"]&.values_at("Code", "Message")
        Trouble.new([said(status, code, detail), ADVICE[code]].compact.join("; "), lasting?(status, code))
      end

      def said(status, code, detail)
        reason = [code, detail].map(&:to_s).reject(&:empty?).join(": ")
        reason.empty? ? "the agent answered #{status}" : "the agent answered #{status}, #{reason}"
      end

      def lasting?(status, code)
        return code == "TASK_NOT_VALID" if status == 200

        status.between?(400, 499) && status != 429 && !PASSING.match?(code.to_s)
      end
    end
  end
end
