# frozen_string_literal: true

# Chromium, without a window, for the page in Sidekiq's Web UI. The systems of bin/test have it from Debian.
class Browser
  CHROMIUM = "/usr/bin/chromium"
  DRIVER = "/usr/bin/chromedriver"

  # @return [String, false] why there is none, for `skip:`
  def self.missing
    return "Chromium is not installed" unless [CHROMIUM, DRIVER].all? { |file| File.executable?(file) }

    require "capybara"
    require "selenium-webdriver"
    false
  rescue LoadError => e
    "a library that drives Chromium cannot be loaded (#{e.message})"
  end

  # The browser starts with the first page.
  #
  # @return [Capybara::Session]
  def self.session
    Capybara.run_server = false
    # A busy machine takes long; what is there is found at once.
    Capybara.default_max_wait_time = Waiting::LIMIT
    Capybara.register_driver(:chromium) { |app| driver(app) }
    Capybara::Session.new(:chromium)
  end

  def self.driver(app)
    options = Selenium::WebDriver::Chrome::Options.new(binary: CHROMIUM)
    # The specs run as root, where Chromium's own sandbox does not.
    %w[--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --lang=en --window-size=1200,1000
       --hide-scrollbars].each { |argument| options.add_argument(argument) }
    options.add_option("goog:loggingPrefs", { browser: "ALL" })
    service = Selenium::WebDriver::Service.chrome(path: DRIVER)
    Capybara::Selenium::Driver.new(app, browser: :chrome, options:, service:)
  end
  private_class_method :driver
end
