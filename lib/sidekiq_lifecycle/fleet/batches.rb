# frozen_string_literal: true

module SidekiqLifecycle
  class Fleet
    # Splits processes into batches.
    #
    # @api private
    module Batches
      # @param identities [Array<String>]
      # @param batch [Integer, Float, nil] how many, or which part of them; nil: all at once
      # @return [Array<Array<String>>]
      def self.of(identities, batch)
        size = case batch
               when nil then identities.size
               when Float then (batch * identities.size).round(6).ceil # 0.07 * 100 is a little more than 7
               else batch
               end
        identities.each_slice([size, 1].max).to_a
      end
    end
  end
end
