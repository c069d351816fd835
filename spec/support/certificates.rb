# frozen_string_literal: true

require "openssl"

# The files of a private certificate authority, and of a certificate that it has signed for 127.0.0.1.
class Certificates
  HOUR = 3600

  # @return [String] the file of each
  attr_reader :authority, :certificate, :key

  # @param directory [String] where the files go
  def initialize(directory)
    @authority, @certificate, @key = %w[authority certificate key].map { |name| File.join(directory, "#{name}.pem") }
    root_key = OpenSSL::PKey::EC.generate("prime256v1")
    root = sign(certify("/CN=authority", root_key, "basicConstraints" => "CA:TRUE"), root_key)
    server_key = OpenSSL::PKey::EC.generate("prime256v1")
    server = certify("/CN=redis", server_key, "subjectAltName" => "IP:127.0.0.1")
    server.issuer = root.subject
    File.write(authority, root.to_pem)
    File.write(certificate, sign(server, root_key).to_pem)
    File.write(key, server_key.to_pem)
  end

  private

  def certify(name, key, extensions)
    certificate = OpenSSL::X509::Certificate.new
    certificate.version = 2 # which is called 3
    certificate.serial = rand(1..(2**64))
    certificate.subject = certificate.issuer = OpenSSL::X509::Name.parse(name)
    certificate.not_before = Time.now - HOUR
    certificate.not_after = Time.now + HOUR
    certificate.public_key = key
    factory = OpenSSL::X509::ExtensionFactory.new
    extensions.each { |extension, value| certificate.add_extension(factory.create_extension(extension, value)) }
    certificate
  end

  def sign(certificate, key) = certificate.sign(key, "SHA256")
end
