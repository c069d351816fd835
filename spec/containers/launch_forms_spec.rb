# frozen_string_literal: true

# What happens to a Sidekiq and its jobs when its container gets a signal, in every launch form. The forms are measured
# a few at a time; each example waits for its own. Nothing of this depends on Sidekiq's major, so an ordinary run has
# the fixed set with the relay on one of them, and otherwise a form of each kind. --full has all of them on all majors.
RSpec.describe "a signal to a container", :containers do
  # Measures the forms of the group's examples.
  def self.measure(&block)
    before(:context) do
      LaunchedContainer.prepare
      forms = self.class.examples_to_run.map { |example| example.metadata[:form] }
      @outcomes = ParallelRuns.new(forms, size: 2, &block)
    end
    after(:context) { @outcomes&.stop }
  end

  def self.examples_to_run = RSpec.world.filtered_examples[self]

  def outcome_of(form) = @outcomes[form]

  it "is tested in a fixed set of 27 forms, of which 5 save the jobs without the relay" do
    expect(LaunchForm.matrix.size).to eq(27)
    expect(LaunchForm.matrix.count(&:safe?)).to eq(5)
  end

  context "stopped, without the relay:" do
    measure { |form| SignalOutcome.new(form, :off, expected: form.safe?).stop }

    LaunchForm.all.each do |form|
      full = Sandbox::MAJOR != 8 || !form.in_matrix? || !form.first_of_its_kind?
      it "#{form} #{form.safe? ? "saves" : "loses"} the jobs", form:, full: do
        outcome = outcome_of(form)
        expect([outcome.saved?, outcome.exit_code]).to eq([form.safe?, form.untouched]), -> { outcome.story }
      end
    end
  end

  context "quieted, without the relay:", full: true do
    measure { |form| SignalOutcome.new(form, :off, expected: form.tstp == "quiet").quiet }

    LaunchForm.all.each do |form|
      it "#{form} is #{form.tstp}", form: do
        outcome = outcome_of(form)
        expect(outcome.result).to eq(form.tstp), -> { "#{outcome.result}\n#{outcome.story}" }
      end
    end
  end

  context "stopped, with the relay:" do
    measure { |form| SignalOutcome.new(form, :auto, expected: true).stop }

    LaunchForm.all.each do |form|
      it "#{form} saves the jobs", form:, full: !form.first_of_its_kind? && !(Sandbox::MAJOR == 8 && form.in_matrix?) do
        outcome = outcome_of(form)
        expect(outcome).to be_saved, -> { outcome.story }
        expect(outcome.exit_code).to eq(form.rescued), -> { outcome.story }
        expect(outcome.heard).to all(satisfy { |terms| form.terms.cover?(terms) }), -> { outcome.story }
      end
    end
  end

  context "quieted, with the relay:" do
    measure { |form| SignalOutcome.new(form, :auto, expected: form.tstp_rescued == "quiet").quiet }

    not_rescued, rescued = LaunchForm.all.partition { |form| form.tstp_rescued == "lost" }

    rescued.each do |form|
      full = Sandbox::MAJOR != 7 || !form.first_of_its_kind?
      it "#{form} becomes quiet, and loses no job when stopped", form:, full: do
        outcome = outcome_of(form)
        expect(outcome.result).to eq("quiet"), -> { outcome.story }
        expect(outcome).to be_saved.and(be_untouched), -> { outcome.story }
        expect(outcome.exit_code).to eq(form.rescued), -> { outcome.story }
      end
    end

    not_rescued.each do |form|
      it "#{form} loses the signal, and reports it", form:, full: Sandbox::MAJOR != 7 do
        outcome = outcome_of(form)
        expect(outcome.result).to eq("lost"), -> { outcome.story }
        expect(outcome.story).to include('"tstp":"lost"')
      end
    end
  end

  # Without the relay, so that it is `run` that saves the jobs.
  context "stopped, with run in front:" do
    measure { |form| SignalOutcome.new(form, :off, expected: true).stop }

    LaunchForm.with_run.each do |form|
      it "#{form} saves the jobs", form:, full: Sandbox::MAJOR != 6 || !form.first_of_its_kind? do
        outcome = outcome_of(form)
        expect(outcome).to be_saved, -> { outcome.story }
        expect(outcome.exit_code).to eq(form.rescued), -> { outcome.story }
        expect(outcome.heard).to all(eq(1)), -> { outcome.story }
      end
    end
  end

  context "quieted, with run in front:" do
    measure { |form| SignalOutcome.new(form, :off, expected: true).quiet }

    LaunchForm.with_run.each do |form|
      it "#{form} is #{form.tstp_rescued}", form:, full: Sandbox::MAJOR != 6 || !form.first_of_its_kind? do
        outcome = outcome_of(form)
        expect(outcome.result).to eq(form.tstp_rescued), -> { "#{outcome.result}\n#{outcome.story}" }
        next unless outcome.result == "quiet"

        expect(outcome).to be_saved.and(be_untouched), -> { outcome.story }
        expect(outcome.exit_code).to eq(form.rescued), -> { outcome.story }
      end
    end
  end
end
