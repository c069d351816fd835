# frozen_string_literal: true

# A duration as people read it. On a busy machine the shortest one may take a minute.
DURATION = /\d+ (?:s|min|h)(?: \d+ (?:s|min))?/
