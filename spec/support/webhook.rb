# frozen_string_literal: true

require "json"
require "socket"

# A real HTTP server that keeps what is posted to it, or never answers.
class Webhook
  attr_reader :url, :messages

  # @param status [String, nil] what it answers; nil: it hangs
  def initialize(status: "200 OK")
    @server = TCPServer.new("127.0.0.1", 0)
    @url = "http://127.0.0.1:#{@server.addr[1]}/hooks/secret"
    @messages = []
    @status = status
    @held = []
    @thread = Thread.new { loop { serve(@server.accept) } }
    @thread.report_on_exception = false
  end

  def stop
    @thread.kill
    [@server, *@held].each(&:close)
  end

  private

  def serve(client)
    return @held << client unless @status

    length = nil
    while (line = client.gets("\r\n").chomp) != ""
      length = line.split(": ").last.to_i if line.downcase.start_with?("content-length")
    end
    @messages << JSON.parse(client.read(length))
    client.write("HTTP/1.1 #{@status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    client.close
  end
end
