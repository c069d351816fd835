# frozen_string_literal: true

module SidekiqLifecycle
  # What others have written, made fit for people: for a terminal, for a log. The same in Rust: `src/model/text.rs`.
  #
  # @api private
  module Text
    # What a terminal would obey, and what is not seen or turns text around: control and format characters, separators
    # of lines and paragraphs.
    UNSEEN = /[[:cntrl:]\p{Cf}\p{Zl}\p{Zp}]/
    # What stands in place of what is not to be read.
    HIDDEN = "[hidden]"
    # What a name says whose value is a secret.
    SECRET = /[\w-]*(?:password|passwd|passphrase|pwd|secret|token|credential|authorization|api[_-]?key|access[_-]key|
                      private[_-]key)[\w-]*/xi
    # To the end of the quotation or of the word.
    VALUE = /"[^"]*"?|'[^']*'?|[^\s;|&"'`,)}]+/
    # `NAME=value` of an environment variable or a secret, `name: value`, `--name value`.
    VALUES = %r{((?<![\w-])(?:[A-Z_][A-Z0-9_]*|#{SECRET})["']?\ *=>?\ *|
                 #{SECRET}["']?:\ *(?!/)|
                 --#{SECRET}\ +(?!-))#{VALUE}}x
    # User and password of a URL: up to the last `@` of the same quotation, for a password may hold anything.
    USERS = %r{://[^"'`\n]*@}
    # What Redis repeats of a command that it does not know, AUTH and HELLO among them.
    REPEATED = /(with args beginning with:).*/

    module_function

    # @return [String] one line without anything that a terminal would obey, or that is not seen
    def one_line(text) = readable(text).gsub(UNSEEN, " ")

    # @return [String] the text without what may be a secret; it hides too much rather than too little
    def masked(text)
      readable(text).gsub(REPEATED, "\\1 #{HIDDEN}").gsub(USERS, "://#{HIDDEN}@").gsub(VALUES, "\\1#{HIDDEN}")
    end

    # @return [String] an error in one line, with its class
    def error(error) = masked("#{error.class}: #{error.message.to_s.lines.first&.chomp}")

    # @return [String] UTF-8, whatever it was
    def readable(text)
      text = text.to_s
      return text if text.encoding == Encoding::UTF_8 && text.valid_encoding?

      # What Ruby calls so where no locale is set.
      bytes = [Encoding::BINARY, Encoding::US_ASCII].include?(text.encoding)
      text = text.dup.force_encoding(Encoding::UTF_8) if bytes
      text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
    end
  end
end
