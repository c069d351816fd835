# frozen_string_literal: true

# What is inside the platform gems. It is the same on every system, so one of them is enough.
RSpec.describe PlatformGem, if: Sandbox::MAJOR == 8 && ENV.key?("IN_ROOT") do
  # Where Gemfile.lock lists x86_64-linux, Bundler would look at no other precompiled gem (seen with 2.6.7).
  it "is not released under a name without the libc" do
    rake = File.read(File.expand_path("../../rakelib/gem.rake", __dir__))
    expect(rake).to include("script/native_gem.rb")
    expect(rake).not_to include("--old-rubygems")
  end

  PlatformGem::BUILT.each do |platform|
    describe platform do
      let(:gem) { described_class.new(platform) }
      let(:machine) { platform.start_with?("x86_64") ? "Advanced Micro Devices X86-64" : "AArch64" }
      let(:musl) { platform.end_with?("musl") }

      it "is for its platform and its Rubies, and builds nothing" do
        expect(gem.spec).to have_attributes(platform: Gem::Platform.new(platform), extensions: [],
                                            executables: ["sidekiq-lifecycle"])
        all = %w[3.0 3.1 3.2 3.3 3.4 3.5 4.0]
        served = all.select { |ruby| gem.spec.required_ruby_version.satisfied_by?(Gem::Version.new("#{ruby}.2")) }
        expect(served).to eq(all.grep(gem.abis.first..gem.abis.last))
      end

      it "is for the RubyGems that ask for it by this name" do
        asks = %w[3.3.15 3.3.22 4.0.0].select do |rubygems|
          gem.spec.required_rubygems_version.satisfied_by?(Gem::Version.new(rubygems))
        end
        expect(asks).to eq(platform.end_with?("linux") ? %w[3.3.15] : %w[3.3.22 4.0.0])
      end

      it "has the Ruby files of the source gem, the extension for every Ruby, and the command" do
        files = gem.spec.files
        native = files.grep(%r{/native\.so\z|/sidekiq-lifecycle\z}) - ["exe/sidekiq-lifecycle"]
        expect(native).to match_array([*gem.abis.map { |abi| "lib/sidekiq_lifecycle/#{abi}/native.so" },
                                       "lib/sidekiq_lifecycle/sidekiq-lifecycle"])
        # In another process, because it loads the version.
        source, = Open3.capture2(RbConfig.ruby, "-e", "puts Gem::Specification.load(ARGV.first).files",
                                 File.expand_path("../../sidekiq_lifecycle.gemspec", __dir__))
        kept = source.lines(chomp: true).grep_v(%r{\A(src|ext)/|\ACargo\.})
        expect(files - native).to match_array(kept + ["LICENSE-THIRD-PARTY"])
      end

      it "has the licences of the crates in it" do
        gem.unpacked do |directory|
          licences = File.read(File.join(directory, "LICENSE-THIRD-PARTY"))
          expect(licences).to match(/^clap 4\S+: MIT OR Apache-2.0$/).and match(/^magnus \S+: MIT$/)
            .and include("Permission is hereby granted", "Apache License")
        end
      end

      # An ordinary run builds it without the optimizations that make it small.
      it "is small", full: true do
        expect(gem.size).to be <= 1_500_000 + (1_000_000 * gem.abis.size)
      end

      it "has stripped files for its machine" do
        gem.unpacked do |directory|
          files = Dir[File.join(directory, "lib/sidekiq_lifecycle/{*/native.so,sidekiq-lifecycle}")]
          expect(files.size).to eq(gem.abis.size + 1)
          files.map { |file| ElfFile.new(file) }.each do |file|
            expect(file).to have_attributes(machine:, stripped?: true)
          end
        end
      end

      it "has a command that needs no library, and extensions that need only the libc" do
        gem.unpacked do |directory|
          command = ElfFile.new(File.join(directory, "lib/sidekiq_lifecycle/sidekiq-lifecycle"))
          expect(command).to have_attributes(libraries: [], interpreter?: false)
          gem.abis.each do |abi|
            extension = ElfFile.new(File.join(directory, "lib/sidekiq_lifecycle", abi, "native.so"))
            # Before glibc 2.34 there were three of them.
            allowed = musl ? %w[libc.so] : %w[libc.so.6 libpthread.so.0 libdl.so.2]
            expect(extension.libraries - allowed).to be_empty
            # Debian 11's and Ubuntu 20.04's glibc is 2.31.
            expect(extension.glibc_versions).to musl ? be_empty : all(be <= Gem::Version.new("2.31"))
            expect(extension.glibc_versions).not_to be_empty unless musl
          end
        end
      end
    end
  end
end
