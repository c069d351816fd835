# frozen_string_literal: true

# A job that holds the GVL in native code until the example releases the lock on a file. Meanwhile no trap and no other
# thread can run.
HOLD_GVL = <<~RUBY
  require "fiddle"
  int = Fiddle::TYPE_INT
  flock = Fiddle::Function.new(Fiddle.dlopen(nil)["flock"], [int, int], int, need_gvl: true)
  lock = File.open("lock")
  note "lock wanted"
  nil until flock.call(lock.fileno, File::LOCK_EX).zero?
  note "lock released"
RUBY
