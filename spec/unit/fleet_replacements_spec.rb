# frozen_string_literal: true

RSpec.describe SidekiqLifecycle::Fleet::Replacements do
  # One whose host's clock says 5000 at its start.
  def member(identity = "new:1:a", beat: 5001.0, beat_age: 0.5, quiet: false, version: "8.1.7", **info)
    info = JSON.generate({ hostname: "worker", started_at: 5000.0, version: }.merge(info))
    fields = { "info" => info, "beat" => beat.to_s, "quiet" => quiet.to_s }
    SidekiqLifecycle::Fleet::Process.new(identity, listed: true, fields:, beat_age:)
  end

  # How many have replaced somebody, look by look; each look is 10 s after the one before.
  def ready(*looks, known: {}, matching: nil)
    selection = SidekiqLifecycle::Fleet::Selection.new(matching:)
    replacements = described_class.new(known, selection)
    looks.map.with_index(1) do |members, number|
      replacements.update([*members].to_h { |one| [one.identity, one] }, 10 * number)
      replacements.ready
    end
  end

  it "count when their hearts have beaten again, and only as long as they go on" do
    expect(ready(member, member, member(beat: 5011.0))).to eq([0, 0, 1])
    expect(ready(member, member(beat: 5011.0), member(beat: 5011.0, beat_age: 21.0))).to eq([0, 1, 0])
    expect(ready(member, member(beat: 5011.0), [])).to eq([0, 1, 0])
    # In Sidekiq 6 they beat twice as often; there they need not tell their version.
    late = [member(version: nil), member(version: nil, beat: 5006.0, beat_age: 10.5)]
    expect(ready(*late)).to eq([0, 0])
  end

  it "are no crash loop that always has somebody listed who was just killed" do
    killed = Array.new(5) { |number| member("new:#{number}:a") }
    looks = (1..5).map { |number| killed.first(number) }
    expect(ready(*looks)).to all(eq(0))
  end

  it "have started after the operation began, whatever the clock of their host says" do
    [5000.0, 1.0].each do |start|
      late, early = [10.0, 30.0].map do |up|
        [up, up + 10].map { |seconds| member(started_at: start, beat: start + seconds, beat_age: 0.0) }
      end
      expect(ready(*late)).to eq([0, 1])
      expect(ready(*early)).to eq([0, 0])
    end
    expect(ready(member(started_at: nil), member(started_at: nil, beat: 5011.0))).to eq([0, 0])
  end

  it "match, are unknown, fetch jobs and can be controlled" do
    { { quiet: true } => {}, { embedded: true } => {}, {} => { matching: "other" },
      { version: "8.1.7" } => { known: { "new:1:a" => member } } }.each do |what, asked|
      expect(ready(member(**what), member(**what, beat: 5011.0), **asked)).to eq([0, 0]), what.inspect
    end
  end
end
