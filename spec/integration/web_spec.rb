# frozen_string_literal: true

require "net/http"
require "rexml/document"
require "sidekiq_lifecycle/fleet"
require "time"

RSpec.describe "the page Lifecycle in Sidekiq's Web UI" do
  include FleetCommand

  # Sidekiq uses $DYNO as the hostname.
  let(:markup) { %q(<b onclick="x">&'blue') }

  def start_seen(hostname, after: "", **options)
    worker = start(**options, name: options.fetch(:name, "app"), after: "#{QUICK_HEARTBEAT}#{KEEP_STALE}#{after}",
                              environment: { "DYNO" => hostname })
    wait_until("it is published as ready") { worker.raise_if_ended || published(worker)["ready"] }
    worker
  end

  def process(worker) = fleet_json("status")["processes"].find { |one| one["pid"] == worker.pid }

  def stop(worker)
    worker.signal(:TERM)
    worker.exit_code
  end

  # A web server as plain Rack, as Sidekiq's documentation has it.
  def serve(settings = "")
    port = RedisServer.free_port
    File.write(file("config.ru"), <<~RUBY)
      require "sidekiq"
      Sidekiq.configure_client { |config| config.redis = { url: #{redis.url(@database).inspect} } }
      require "sidekiq/web"
      require "sidekiq_lifecycle/web"
      begin
        require "rack/session"
      rescue LoadError
        require "rack/session/cookie"
      end
      #{settings}
      use Rack::Session::Cookie, secret: "x" * 64, same_site: true
      run Sidekiq::Web
    RUBY
    server = start_program("puma", "--bind", "tcp://127.0.0.1:#{port}", "--threads", "1:2", "config.ru", name: "puma")
    @address = "http://127.0.0.1:#{port}"
    wait_until("the server answers") { server.raise_if_ended || get("/lifecycle/style.css").code == "200" }
    server
  end

  def get(path, **headers)
    Net::HTTP.get_response(URI("#{@address}#{path}"), headers)
  rescue Errno::ECONNREFUSED, Errno::ECONNRESET, EOFError
    Net::HTTPServiceUnavailable.new("1.1", "503", "")
  end

  def post(path, fields, **headers) = Net::HTTP.post(URI("#{@address}#{path}"), URI.encode_www_form(fields), headers)

  describe "over HTTP" do
    it "escapes whatever a process calls itself, and shows those without the gem and ghosts as such" do
      start_seen(markup)
      start(name: "plain", gem: false, after: QUICK_HEARTBEAT)
      wait_until("both are listed") { listed.size == 2 }
      add_stale("#{markup}:1:f00")
      serve
      page = get("/lifecycle")
      expect(page.code).to eq("200")
      expect(page.body).not_to include("<b onclick")
      expect(page.body.scan(/lifecycle-state (\w+)/).flatten).to match_array(%w[ready ready gone])
      expect(page.body).to include("no heartbeat for a minute", "<td>without</td>")
      # Sidekiq's own part of the page has scripts in 6.x.
      expect(page.body[%r{<section class="lifecycle.*</section>}m]).not_to match(/<style|style="|<script/)
      picture = page.body[%r{<svg[^>]*class="timeline".*?</svg>}m]
      expect(REXML::Document.new(picture).root.name).to eq("svg")
      expect(get("/lifecycle/style.css")["content-type"]).to eq("text/css")
    end

    it "lists the jobs that a killed process had in hand" do
      recover = "lifecycle.recover_jobs = true"
      worker = start_ready(install: recover)
      start_job
      Process.kill(:KILL, worker.pid)
      worker.exit_code
      release
      start(install: recover, name: "next")
      wait_for_note("job ends")
      serve
      killed = get("/lifecycle").body[%r{<table class="lifecycle-killed.*</table>}m]
      cells = killed.scan(%r{<td>(.*?)</td>}m).flatten.drop(1)
      expect(cells).to match(["process #{worker.pid}", "default", /\AEvaluate \h{24}\z/, start_with("put back")])
    end

    it "speaks the languages of Sidekiq's users, and English otherwise" do
      serve
      { "de" => "Lebenszyklus", "fr" => "Cycle de vie", "es" => "Ciclo de vida", "ja" => "ライフサイクル",
        "it" => "Lifecycle" }.each do |language, word|
        body = get("/lifecycle", "Accept-Language" => language).body.force_encoding("UTF-8")
        expect(body).to include("<h1>#{word}</h1>")
      end
    end

    it "tells nobody anything without a token of its own page, or where it is read only" do
      worker = start_seen("blue")
      serve
      fields = { "request" => "quiet", "identities[]" => process(worker)["identity"] }
      %w[/lifecycle/confirm /lifecycle/tell].each { |path| expect(post(path, fields).code).to eq("403") }

      serve("SidekiqLifecycle::Web.read_only = true\n$TESTING = true") # without Sidekiq's own protection
      same_origin = { "Sec-Fetch-Site" => "same-origin" }
      %w[/lifecycle/confirm /lifecycle/tell].each { |path| expect(post(path, fields, **same_origin).code).to eq("403") }
      expect(get("/lifecycle").body[%r{<section class="lifecycle.*</section>}m]).not_to match(/<button|type="checkbox"/)
      expect(redis.call("EXISTS", "#{process(worker)["identity"]}-signals", database: @database)).to eq(0)
    end

    it "takes nothing that it does not know" do
      serve("$TESTING = true")
      same_origin = { "Sec-Fetch-Site" => "same-origin" }
      [{}, { "request" => "kill" }, { "only[kill]" => "x" }, { "only" => "quiet" }].each do |fields|
        expect(post("/lifecycle/confirm", fields, **same_origin).code).to eq("400")
      end
      expect(get("/lifecycle?period=9999&told=%3Cb%3E&request=quiet").code).to eq("200")
      left_out = post("/lifecycle/confirm", { "request" => "quiet", "identities[]" => "<b>" }, **same_origin)
      expect(left_out.body).to include("&lt;b&gt;: it is gone")
    end
  end

  describe "in Chromium", skip: Browser.missing do
    let(:browser) { Browser.session }

    after { browser.quit if @address }

    def open(path = "/lifecycle") = browser.visit("#{@address}#{path}")
    def row(hostname) = browser.find(".lifecycle-processes tbody tr", text: hostname)

    # The page asks once.
    def confirm
      browser.find(".lifecycle-asked")
      browser.find(".lifecycle-buttons button").click
      browser.find(".lifecycle-told")
    end

    # Selects a process, and asks something of those that are selected.
    def choose(hostname, request)
      open
      row(hostname).find("input[type=checkbox]").check
      browser.find(".lifecycle > form > .lifecycle-buttons").click_button(request)
      confirm
    end

    # What the browser refused or could not find.
    def complaints
      browser.driver.browser.logs.get(:browser).map(&:message).grep(/lifecycle|Content Security Policy/i)
    end

    def evaluate(code) = browser.evaluate_script(code)

    def emulate(feature, value)
      browser.driver.browser.execute_cdp("Emulation.setEmulatedMedia", features: [{ name: feature, value: }])
    end

    it "shows a blue-green deploy, narrow and in the dark as well" do
      blue = start_seen("blue")
      start_job
      start_seen("green", name: "green")
      serve
      open("/lifecycle?period=15min")
      expect(row("blue")).to have_css(".lifecycle-state.ready")
      row("blue").click_button("Quiet")
      confirm
      wait_until("it drains") do
        open("/lifecycle?period=15min")
        row("blue").has_css?(".lifecycle-state.draining", wait: 0)
      end
      expect(row("blue")).to have_text(/Evaluate \h+ \(queue default, running for/)
      release
      stop(blue)
      start_seen(markup, name: "third")
      wait_until("its end is in Redis") do
        open("/lifecycle?period=15min")
        browser.has_css?(".lifecycle-gone tr", text: "blue", wait: 0)
      end
      expect(browser).to have_css("svg.timeline .lane", count: 3)
      expect(browser).to have_css("svg.timeline text", text: markup[0, 12])
      expect(browser).to have_no_css("svg.timeline .without-ready")

      # Hidden until the pointer is there, or the keyboard's focus.
      shown = "getComputedStyle(document.querySelector('svg.timeline .lane .figures')).visibility"
      expect(evaluate(shown)).to eq("hidden")
      browser.first("svg.timeline .lane rect.ready").hover
      expect(evaluate(shown)).to eq("visible")
      browser.find(".lifecycle h1").hover
      expect(evaluate(shown)).to eq("hidden")
      wait_until("the focus is there") do
        browser.driver.browser.switch_to.active_element.send_keys(:tab)
        evaluate("document.activeElement.matches('svg.timeline .lane')")
      end
      expect(evaluate(shown)).to eq("visible")

      paper = "getComputedStyle(document.querySelector('svg.timeline .paper')).fill"
      light = evaluate(paper)
      emulate("prefers-color-scheme", "dark")
      expect(evaluate(paper)).not_to eq(light)
      browser.driver.browser.execute_cdp("Emulation.setEmulatedMedia", media: "print")
      expect(evaluate(paper)).to eq("rgb(255, 255, 255)")
      expect(browser).to have_no_css(".lifecycle-buttons button")
      emulate("prefers-color-scheme", "dark")
      browser.current_window.resize_to(420, 900)
      wait_until("it is narrow") { evaluate("window.innerWidth") < 600 }
      expect(evaluate("document.querySelector('.lifecycle').scrollWidth"))
        .to be <= evaluate("document.querySelector('.lifecycle').clientWidth")
      expect(complaints).to be_empty
    end

    it "shows a moment without a ready worker, interrupted jobs, and deploys" do
      blue = start_seen("blue", timeout: 1)
      start_job
      stop(blue)
      # The next boot clears it.
      stopping = Time.parse(record(blue.pid)["timings"]["stopping"])
      green = start_seen("green", name: "green")
      mark = 'require "sidekiq/deploy"; Sidekiq::Deploy.new(Sidekiq.redis_pool).mark!(label: "v2"); note "marked"'
      release
      push("Evaluate", Sandbox::MAJOR > 6 ? mark : 'note "marked"')
      wait_for_note("marked")
      serve
      open("/lifecycle?period=15min")
      gap = fleet_json("timeline")["gaps"].first["seconds"]
      ready = Time.parse(record(green.pid)["timings"]["running"])
      expect(gap).to be_within(0.1).of(ready - stopping)
      expect(browser.find("svg.timeline .without-ready")["aria-label"])
        .to start_with("no worker was ready for #{SidekiqLifecycle::Fleet::Format.exact(gap)}: ")
      expect(browser.find("svg.timeline .jobs")["aria-label"]).to match(/\A1 job interrupted; Evaluate \h{24}/)
      deploys = browser.all("svg.timeline .deploy", minimum: 0, wait: 0).map { |deploy| deploy["aria-label"] }
      expect(deploys).to match(Sandbox::MAJOR > 6 ? [start_with("deploy v2, ")] : [])
      expect(browser.html).not_to include("File.exist")
      expect(complaints).to be_empty
    end

    # For docs/web.md, so it takes as long as a real deploy.
    it "is photographed during a deploy", full: true do
      blue = start_seen("worker-blue", after: "ReportJob = Class.new(Sleep)")
      serve
      sleep 120
      mark = 'require "sidekiq/deploy"; Sidekiq::Deploy.new(Sidekiq.redis_pool).mark!(label: "v2")'
      push("Evaluate", mark) if Sandbox::MAJOR > 6
      push("ReportJob", 600)
      start_seen("worker-green", name: "green", after: "sleep 40")
      wait_until("the job is listed") { process(blue)["busy"] == 1 }
      open
      row("blue").click_button("Drain and stop")
      confirm
      wait_until("it drains") { published(blue)["state"] == "quiet" }
      sleep 60
      browser.current_window.resize_to(1200, 1400)
      open("/lifecycle?period=15min")
      expect(row("blue")).to have_text("ReportJob")
      FileUtils.mkdir_p("/build/pictures")
      browser.save_screenshot("/build/pictures/web.png")
    end

    it "quiets, restarts, and drains and stops processes, and asks each time" do
      workers = [start_seen("one"), start_seen("two", name: "two")]
      serve
      open
      %w[one two].each { |name| row(name).find("input[type=checkbox]").check }
      browser.find(".lifecycle > form > .lifecycle-buttons").click_button("Quiet")
      # Nothing has been sent yet.
      expect(browser).to have_css(".lifecycle-asked li", count: 2)
      expect(workers.map { |worker| process(worker)["quiet"] }).to eq([false, false])
      confirm
      wait_until("both have drained") { workers.all? { |worker| published(worker)["drained"] } }

      open
      row("one").click_button("Restart drained")
      confirm
      expect(workers.first.exit_code).to eq(0)
      expect(workers.last).to be_running

      choose("two", "Restart drained")
      expect(workers.last.exit_code).to eq(0)

      workers = [start_seen("three", name: "three"), start_seen("four", name: "four")]
      open
      row("three").click_button("Drain and stop")
      confirm
      expect(workers.first.exit_code).to eq(0)
      choose("four", "Drain and stop")
      expect(workers.last.exit_code).to eq(0)
      expect(complaints).to be_empty
    end
  end
end
