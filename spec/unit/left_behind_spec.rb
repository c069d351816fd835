# frozen_string_literal: true

require "sidekiq_lifecycle/job_copy"
require "sidekiq_lifecycle/job_recovery"

RSpec.describe SidekiqLifecycle::JobRecovery::LeftBehind do
  def left_behind(days: 0, torn: 0, jobs: %w[a1 b2], of_this_boot: true)
    recorded = jobs.map.with_index { |jid, number| [number, 0, false, "queue:low", %({"class":"Mail","jid":"#{jid}"})] }
    described_class.new("7-ab", "ab", 7, (Time.now.to_f - (days * 86_400)) * 1000, torn, recorded, of_this_boot)
  end

  it "is too old after 28 days, and says which jobs are not put back" do
    expect([left_behind(days: 27).old?, left_behind(days: 29).old?]).to eq([false, true])
    said = "process 7 was killed more than 28 days ago, so what it had in hand is not put back: Mail a1, Mail b2"
    expect(left_behind.age_warning).to eq(said)
    expect(left_behind(jobs: []).age_warning).to be_nil
  end

  it "is whole if nothing in it is torn, and the machine has not crashed since" do
    all = [left_behind, left_behind(torn: 1), left_behind(of_this_boot: false)]
    expect(all.map(&:whole?)).to eq([true, false, false])
  end

  {
    0 => nil,
    1 => "process 7 was killed in the moment when it fetched a job, which cannot be read and is lost",
    2 => "process 7 was killed in the moment when it fetched 2 jobs, which cannot be read and are lost"
  }.each do |torn, said|
    it "with #{torn} torn jobs says #{said.inspect}" do
      expect(left_behind(torn:).torn_warning).to eq(said)
    end
  end
end
