# frozen_string_literal: true

# A small application without Rails. The other examples deploy it.

require_relative "config/initializers/sidekiq"

# Sends an order.
class Parcel
  include Sidekiq::Job

  sidekiq_options queue: "critical"

  def perform(order, seconds = 1)
    logger.info("packing order #{order}")
    sleep seconds
    logger.info("order #{order} is on its way")
  end
end
