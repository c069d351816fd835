# frozen_string_literal: true

require "time"

# compose.sidekiq.yml, as generate writes it, with the real Docker Compose.
RSpec.describe "a project with compose.sidekiq.yml", :containers, skip: ShopImage.missing do
  def time(shop, container, format) = Time.parse(shop.inspect_value(container, format))

  it "is up when the worker is healthy, then starts what depends on it, and stops without losing a job" do
    shop = ShopImage.shared
    ComposeProject.open(shop) do |project|
      code, said = project.compose("up", "-d", "--build", "--wait")
      expect(code).to eq(0), said
      worker, web = %w[sidekiq web].map { |service| project.container(service) }
      expect(shop.health(worker)).to eq("healthy")
      ready = Time.parse(shop.record(worker)["timings"]["running"])
      expect(time(shop, web, ".State.StartedAt")).to be > ready

      # Longer than Compose's default timeout.
      payload = { class: "Parcel", args: [7, 15], jid: SecureRandom.hex(12), queue: "critical", retry: true,
                  created_at: Time.now.to_f, enqueued_at: Time.now.to_f }
      project.redis("LPUSH", "queue:critical", JSON.generate(payload))
      shop.wait_until("the parcel is being packed") { shop.docker("logs", worker).include?("packing order 7") }
      expect(project.compose("stop").first).to eq(0)
      expect(shop.inspect_value(worker, ".State.ExitCode")).to eq("0")
      expect(shop.docker("logs", worker)).to match(/order 7 is on its way.*Bye!/m)
    end
  end
end
