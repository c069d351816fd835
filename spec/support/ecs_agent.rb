# frozen_string_literal: true

require "json"
require "socket"

# The ECS agent as a task sees it, on a free port of the loopback interface. It accepts and refuses what the real one
# does (see the agent's source, `ecs-agent/tmds/handlers/taskprotection/v1/`).
class EcsAgent
  ARN = "arn:aws:ecs:us-west-2:111122223333:task/shop/1234567890abcdef0"
  PATH = "/api/5c1a-42/task-protection/v1/state"

  # What the agent, or the ECS API behind it, answers when it refuses a request.
  ANSWERS = {
    no_role: [403, { error: { Arn: ARN, Code: "AccessDeniedException",
                              Message: "Invalid Request: no task IAM role credentials available for task" } }],
    denied: [400, { requestID: "12345-abc", error: { Arn: ARN, Code: "AccessDeniedException",
                                                     Message: "not authorized: ecs:UpdateTaskProtection" } }],
    unknown: [404, { error: { Code: "ResourceNotFoundException",
                              Message: "Failed to find a task for the request" } }],
    throttled: [400, { requestID: "12345-abc", error: { Arn: ARN, Code: "ThrottlingException",
                                                        Message: "Rate exceeded" } }],
    crowded: [429, nil],
    broken: [500, { error: { Arn: ARN, Code: "ServerException", Message: "Unexpected error occurred" } }],
    timed_out: [504, { error: { Arn: ARN, Code: "RequestCanceled",
                                Message: "Timed out calling Amazon ECS Task Protection API" } }],
    standalone: [200, { failure: { Arn: ARN, Detail: nil, Reason: "TASK_NOT_VALID" } }],
    blocked: [200, { failure: { Arn: ARN, Detail: "", Reason: "DEPLOYMENT_BLOCKED" } }],
    garbled: [200, "<html>"]
  }.freeze

  # The bodies of the requests, in order.
  attr_reader :requests

  # One of {ANSWERS}, or `:hang` (accepts the request and never answers), or `:trickle` (sends an endless answer), or
  # nil (carries out the request).
  attr_accessor :behaviour

  def initialize
    @requests = []
    @protected = false
    @server = TCPServer.new("127.0.0.1", 0)
    @port = @server.addr[1]
    @thread = Thread.new { loop { Thread.new(@server.accept) { |client| serve(client) } } }
    @thread.report_on_exception = false
  end

  # The environment with `$ECS_AGENT_URI`.
  def uri = "http://127.0.0.1:#{@port}/api/5c1a-42"

  def environment = { "ECS_AGENT_URI" => uri }

  def protected? = @protected

  # The requested protection of each request, in order.
  def asked = requests.map { |request| request["ProtectionEnabled"] }

  # Refuses connections from now on.
  def stop
    @thread.kill.join
    @server.close
  end

  private

  def serve(client)
    head = client.gets("\r\n\r\n")
    body = client.read(head[/^content-length: (\d+)/i, 1].to_i)
    verb, path = head.split
    requests << (JSON.parse(body) rescue body) # rubocop:disable Style/RescueModifier
    return sleep if behaviour == :hang
    return trickle(client) if behaviour == :trickle

    answer(client, *reply(verb, path, body))
  rescue SystemCallError
    nil # The other side has gone.
  ensure
    client.close
  end

  def reply(verb, path, body)
    return [404, nil] unless [verb, path] == ["PUT", PATH]

    refusal(body) || ANSWERS[behaviour] || update(JSON.parse(body))
  end

  # Like Go's decoder, which refuses unknown fields, and then the checks of the agent and the API.
  def refusal(body)
    request = JSON.parse(body)
    return invalid("failed to decode request") unless request.is_a?(Hash) && decodes?(request)
    return invalid("does not contain 'ProtectionEnabled' field") unless request.key?("ProtectionEnabled")

    invalid("expiresInMinutes") unless (1..2880).cover?(request.fetch("ExpiresInMinutes", 120))
  rescue JSON::ParserError
    invalid("failed to decode request")
  end

  def decodes?(request)
    (request.keys - %w[ProtectionEnabled ExpiresInMinutes]).empty? &&
      [true, false, nil].include?(request["ProtectionEnabled"]) &&
      (request["ExpiresInMinutes"].nil? || request["ExpiresInMinutes"].is_a?(Integer))
  end

  def invalid(what)
    [400, { error: { Arn: ARN, Code: "InvalidParameterException", Message: "Invalid request: #{what}" } }]
  end

  def update(request)
    @protected = request["ProtectionEnabled"]
    [200, { protection: { ExpirationDate: ("2026-10-06T02:29:16Z" if @protected), ProtectionEnabled: @protected,
                          TaskArn: ARN } }]
  end

  def answer(client, status, body)
    text = body.is_a?(Hash) ? JSON.generate(body) : body.to_s
    client.write("HTTP/1.1 #{status} #{status}\r\nContent-Type: application/json\r\n" \
                 "Content-Length: #{text.bytesize}\r\nConnection: close\r\n\r\n#{text}")
  end

  def trickle(client)
    client.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    loop do
      client.write(" ")
      sleep 0.05
    end
  end
end
