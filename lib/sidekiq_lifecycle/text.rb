# frozen_string_literal: true

module SidekiqLifecycle
  # Makes foreign text safe for a terminal and for a log. The same in Rust: `src/model/text.rs`.
  #
  # @api private
  module Text
    # Characters that a terminal interprets, that are invisible, or that reverse text: control and format characters,
    # separators of lines and paragraphs.
    UNSEEN = /[[:cntrl:]\p{Cf}\p{Zl}\p{Zp}]/
    # The replacement for a secret.
    HIDDEN = "[hidden]"
    # Names whose values are secret.
    SECRET = /[\w-]*(?:password|passwd|passphrase|pwd|secret|token|credential|authorization|api[_-]?key|access[_-]key|
                      private[_-]key)[\w-]*/xi
    # A value, up to the end of the quotation or of the word.
    VALUE = /"[^"]*"?|'[^']*'?|[^\s;|&"'`,)}]+/
    # `NAME=value` of an environment variable or a secret, `name: value`, `--name value`.
    VALUES = %r{((?<![\w-])(?:[A-Z_][A-Z0-9_]*|#{SECRET})["']?\ *=>?\ *|
                 #{SECRET}["']?:\ *(?!/)|
                 --#{SECRET}\ +(?!-))#{VALUE}}x
    # User and password of a URL: up to the last `@` of the same quotation, because a password may contain anything.
    USERS = %r{://[^"'`\n]*@}
    # Arguments that Redis repeats in its error about an unknown command, including AUTH and HELLO.
    REPEATED = /(with args beginning with:).*/

    module_function

    # @return [String] one line, without characters that a terminal interprets or that are invisible
    def one_line(text) = readable(text).gsub(UNSEEN, " ")

    # @return [String] the text without what may be a secret; it rather hides too much than too little
    def masked(text)
      readable(text).gsub(REPEATED, "\\1 #{HIDDEN}").gsub(USERS, "://#{HIDDEN}@").gsub(VALUES, "\\1#{HIDDEN}")
    end

    # @return [String] an error in one line, with its class
    def error(error) = masked("#{error.class}: #{error.message.to_s.lines.first&.chomp}")

    # @return [String] the text as valid UTF-8
    def readable(text)
      text = text.to_s
      return text if text.encoding == Encoding::UTF_8 && text.valid_encoding?

      # Ruby labels text like this if no locale is set.
      bytes = [Encoding::BINARY, Encoding::US_ASCII].include?(text.encoding)
      text = text.dup.force_encoding(Encoding::UTF_8) if bytes
      text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
    end
  end
end
