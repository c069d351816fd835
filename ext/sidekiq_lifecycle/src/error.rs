//! One way in which anything of the core reaches Ruby as an exception: `SidekiqLifecycle::Error`.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use magnus::value::{InnerValue, Lazy};
use magnus::{Error, ExceptionClass, Module, RModule, Ruby};

static ERROR: Lazy<ExceptionClass> = Lazy::new(|ruby| {
    let module: Result<RModule, Error> = ruby.class_object().const_get("SidekiqLifecycle");
    module.and_then(|module| module.const_get("Error")).unwrap_or_else(|_| ruby.exception_standard_error())
});

/// Makes a Ruby exception.
pub fn raise(ruby: &Ruby, message: impl Display) -> Error {
    Error::new(ERROR.get_inner_with(ruby), message.to_string())
}

/// Runs a method's body. Left to itself, magnus turns a panic into Ruby's `fatal`, which no `rescue` catches: the
/// process would end. Here it becomes an ordinary exception.
pub fn guarded<T>(ruby: &Ruby, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(raise(ruby, "sidekiq_lifecycle's core panicked")))
}
