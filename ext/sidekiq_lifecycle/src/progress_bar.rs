//! `SidekiqLifecycle::Native::ProgressBar`: the bar of the native commands, for the fleet's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use magnus::{Error, Module, Object, RModule, Ruby, TypedData, function, method};
use sidekiq_lifecycle::output::progress::{ProgressThread, Step};
use sidekiq_lifecycle::sys::signals::disposition;

use crate::error::{guarded, raise};
use crate::gvl;

/// A thread draws it. It is gone when it is closed.
#[magnus::wrap(class = "SidekiqLifecycle::Native::ProgressBar", free_immediately, size)]
struct ProgressBar(Mutex<Option<ProgressThread>>);

impl ProgressBar {
    fn new(ruby: &Ruby) -> Result<Self, Error> {
        guarded(ruby, || {
            let bar = ProgressThread::start(|draw| disposition::spawn("progress", draw));
            bar.map(|bar| Self(Mutex::new(Some(bar)))).map_err(|error| raise(ruby, error))
        })
    }

    #[allow(clippy::too_many_arguments)] // Ruby's, which magnus hands over one by one
    fn show(
        ruby: &Ruby,
        this: &Self,
        done: usize,
        total: usize,
        message: String,
        notes: Vec<String>,
        timeout: Option<f64>,
        elapsed: f64,
    ) -> Result<(), Error> {
        let step = Step { done, total, message, notes, timeout, begun: elapsed };
        this.with(ruby, |bar| bar.show(step))
    }

    fn print(ruby: &Ruby, this: &Self, line: String) -> Result<(), Error> {
        this.with(ruby, |bar| bar.print(line))
    }

    /// The lock is free while this waits without the GVL: another of Ruby's threads that wants it holds the GVL.
    fn close(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        guarded(ruby, || {
            let bar = this.bar().take();
            if let Some(mut bar) = bar {
                gvl::without(|| bar.close(), None);
            }
            Ok(())
        })
    }

    fn with(&self, ruby: &Ruby, work: impl FnOnce(&mut ProgressThread)) -> Result<(), Error> {
        guarded(ruby, || {
            self.bar().as_mut().map(work);
            Ok(())
        })
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressThread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Defines the class. magnus looks it up here rather than when the first object is made (see `look_up_classes`).
pub fn init(ruby: &Ruby, module: RModule) -> Result<(), Error> {
    let class = module.define_class("ProgressBar", ruby.class_object())?;
    let _ = <ProgressBar as TypedData>::class(ruby);
    class.define_singleton_method("new", function!(ProgressBar::new, 0))?;
    class.define_method("show", method!(ProgressBar::show, 6))?;
    class.define_method("print", method!(ProgressBar::print, 1))?;
    class.define_method("close", method!(ProgressBar::close, 0))?;
    Ok(())
}
