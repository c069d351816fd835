//! The Ruby binding, as thin as possible. Ruby and the core exchange strings, numbers and JSON. What they mean is documented
//! on either side, not here.

#![allow(missing_docs)] // of the function that magnus generates; nothing else is public

mod bytes;
mod command_line;
mod error;
mod gvl;
mod progress_bar;
mod recorders;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use error::{guarded, raise};
use magnus::value::ReprValue;
use magnus::{Error, IntoValue, Module, Object, RArray, RModule, RString, Ruby, TypedData, Value, function, method};
use sidekiq_lifecycle::model::http;
use sidekiq_lifecycle::model::job::Job;
use sidekiq_lifecycle::model::killed_job::KilledJob;
use sidekiq_lifecycle::model::recorder;
use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::store::record::About;
use sidekiq_lifecycle::sys::claim;
use sidekiq_lifecycle::sys::signals::{Signal, boot_guard, disposition, observer};
use sidekiq_lifecycle::worker::clearing;
use sidekiq_lifecycle::worker::http as endpoint;
use sidekiq_lifecycle::worker::lifecycle::Lifecycle;
use sidekiq_lifecycle::worker::own_path;
use sidekiq_lifecycle::worker::recorder::Awaited;

static REGISTERED: Mutex<Option<Arc<Lifecycle>>> = Mutex::new(None);

fn registered() -> MutexGuard<'static, Option<Arc<Lifecycle>>> {
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `SidekiqLifecycle::Native::Process`: the calling process's lifecycle.
#[magnus::wrap(class = "SidekiqLifecycle::Native::Process", free_immediately, size)]
struct Process(Arc<Lifecycle>);

impl Process {
    fn begin(ruby: &Ruby, directory: RString, ready_file: Option<RString>, about: String) -> Result<Self, Error> {
        guarded(ruby, || {
            let about = parse(ruby, &about)?;
            let directory = Directory::new(&path(directory)?, ready_file.map(path).transpose()?.as_deref());
            let begin = || Lifecycle::begin(directory.clone(), about.clone());
            let lifecycle = gvl::without(begin, None).unwrap_or_else(begin);
            *registered() = Some(Arc::clone(&lifecycle));
            Ok(Self(lifecycle))
        })
    }

    /// The one that was registered last. A signal may raise before its caller has it in hand.
    fn last() -> Option<Self> {
        registered().clone().map(Self)
    }

    fn describe(ruby: &Ruby, this: &Self, about: String) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.describe(parse(ruby, &about)?);
            Ok(())
        })
    }

    /// Whether systemd is notified of the state, and whether Ruby's heartbeat feeds its watchdog.
    fn notify(ruby: &Ruby, this: &Self, pause: f64) -> Result<(bool, bool), Error> {
        let lifecycle = Arc::clone(&this.0);
        this.write(ruby, move |_| {
            let notified = lifecycle.notify(pause);
            (notified.of_state, notified.of_heartbeat)
        })
    }

    fn observe(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        guarded(ruby, || this.0.observe().map_err(|error| raise(ruby, error)))
    }

    fn arrived(ruby: &Ruby, this: &Self, signal: String) -> Result<(), Error> {
        let signal = named(ruby, &signal)?;
        this.write(ruby, |lifecycle| lifecycle.arrived(signal))
    }

    fn mute(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::mute)
    }

    fn started(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::started)
    }

    fn quieted(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::quieted)
    }

    fn stopping(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::stopping)
    }

    fn beat(ruby: &Ruby, this: &Self, busy: u32) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.beat(busy))
    }

    fn record_task_protection(ruby: &Ruby, this: &Self, is_protected: Option<bool>) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.record_task_protection(is_protected);
            Ok(())
        })
    }

    fn listen(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        guarded(ruby, || {
            gvl::without(|| this.0.listen(), Some(&|| this.0.listener().call()));
            Ok(())
        })
    }

    fn runs(ruby: &Ruby, this: &Self) -> Result<Option<String>, Error> {
        guarded(ruby, || Ok(this.0.runs()))
    }

    fn takes(ruby: &Ruby, this: &Self, jid: String, class: String, queue: String) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.takes(jid, &class, &queue);
            Ok(())
        })
    }

    /// Seconds; nil if no such job is running.
    fn running_for(ruby: &Ruby, this: &Self, jid: String) -> Result<Option<f64>, Error> {
        guarded(ruby, || Ok(this.0.running_for(&jid)))
    }

    fn gives(ruby: &Ruby, this: &Self, jid: String) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.gives(&jid);
            Ok(())
        })
    }

    fn hooks_begin(ruby: &Ruby, this: &Self, name: String, free: f64) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.hooks_begin(name, free);
            Ok(())
        })
    }

    fn hooks_end(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.hooks_end();
            Ok(())
        })
    }

    fn draining(ruby: &Ruby, this: &Self, busy: u32) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.draining(busy))
    }

    fn hindered(
        ruby: &Ruby,
        this: &Self,
        takes_no_job: Option<String>,
        never_drains: Option<String>,
    ) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.hindered(takes_no_job.clone(), never_drains.clone()))
    }

    fn drained(ruby: &Ruby, this: &Self) -> Result<bool, Error> {
        this.write(ruby, Lifecycle::drained)
    }

    fn stop_when_drained(ruby: &Ruby, this: &Self, why: String) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.stop_when_drained(&why))
    }

    fn over(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::over)
    }

    /// Both are lists of jobs, as JSON: Sidekiq interrupted some at its shutdown timeout, and Redis did not take the
    /// `lost` ones back.
    fn unfinished(ruby: &Ruby, this: &Self, interrupted: String, lost: String) -> Result<(), Error> {
        let parse = |json: &str| Job::parse_list(json).map_err(|error| raise(ruby, error));
        let (interrupted, lost) = (parse(&interrupted)?, parse(&lost)?);
        this.write(ruby, |lifecycle| lifecycle.unfinished(interrupted.clone(), lost.clone()))
    }

    fn ended(ruby: &Ruby, this: &Self, status: Option<i32>, why: Option<String>) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.ended(status, why.clone()))
    }

    fn rearm(ruby: &Ruby, this: &Self, signal: String) -> Result<(), Error> {
        let signal = named(ruby, &signal)?;
        this.write(ruby, |lifecycle| lifecycle.rearm(signal))
    }

    fn note(ruby: &Ruby, this: &Self, name: String, problem: Option<String>) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.set_problem(&name, problem);
            Ok(())
        })
    }

    /// Its state, as in the record.
    fn state(ruby: &Ruby, this: &Self) -> Result<String, Error> {
        guarded(ruby, || Ok(this.0.record().state.to_string()))
    }

    /// What is wrong: a code and a message each.
    fn problems(ruby: &Ruby, this: &Self) -> Result<Vec<(String, String)>, Error> {
        guarded(ruby, || {
            let problems = this.0.record().problems.into_iter();
            Ok(problems.map(|problem| (problem.code, problem.message)).collect())
        })
    }

    fn report(ruby: &Ruby, this: &Self) -> Result<String, Error> {
        guarded(ruby, || this.0.report().map_err(|error| raise(ruby, error)))
    }

    fn is_drained(&self) -> bool {
        self.0.record().drained
    }

    fn retire(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        this.write(ruby, Lifecycle::retire)
    }

    fn require_signal_path(ruby: &Ruby, this: &Self, required: bool) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.require_signal_path(required))
    }

    fn is_ours(&self) -> bool {
        self.0.is_ours()
    }

    fn start_recorder(ruby: &Ruby, this: &Self, threads: usize) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.start_recorder(threads))
    }

    /// Waits until a socket can be read: a token if that is a job, which is recorded then; true for anything else, false
    /// after so many seconds, nil if the wait was interrupted.
    fn await_job(ruby: &Ruby, this: &Self, socket: i32, timeout: Option<f64>) -> Result<Value, Error> {
        guarded(ruby, || {
            let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let wait = || this.0.recorder().map(|recorder| recorder.await_job(socket, timeout));
            Ok(match gvl::without_until_signalled(wait).flatten() {
                Some(Awaited::Job(token)) => token.into_value_with(ruby),
                Some(Awaited::Readable) => true.into_value_with(ruby),
                Some(Awaited::TimedOut) => false.into_value_with(ruby),
                Some(Awaited::Interrupted) | None => ruby.qnil().as_value(),
            })
        })
    }

    /// A token for `clear_job`; nil: it is not recorded. Only for a job that has no room, the GVL is released. `awaited` is a
    /// token that `await_job` returned for the same job.
    fn record_job(
        ruby: &Ruby,
        this: &Self,
        queue: RString,
        payload: RString,
        kept: bool,
        awaited: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let flags = if kept { recorder::KEPT_ELSEWHERE } else { 0 };
        guarded(ruby, || {
            let Some(recorder) = this.0.recorder() else { return Ok(None) };
            let recorded = bytes::of_two(queue, payload, |queue, payload| {
                if let Some(token) = awaited {
                    if recorder.holds(token, queue, payload) {
                        return Some(token);
                    }
                    recorder.clear(token);
                }
                recorder.record(queue, payload, flags)
            });
            if recorded.is_some() {
                return Ok(recorded);
            }
            let (queue, payload) = bytes::of_two(queue, payload, |queue, payload| (queue.to_vec(), payload.to_vec()));
            let write = || recorder.record_in_file(&queue, &payload, flags);
            Ok(gvl::without(write, None).unwrap_or_else(write))
        })
    }

    fn clear_job(ruby: &Ruby, this: &Self, token: u64) -> Result<(), Error> {
        guarded(ruby, || {
            if let Some(recorder) = this.0.recorder() {
                recorder.clear(token);
            }
            Ok(())
        })
    }

    fn keep_recorder(ruby: &Ruby, this: &Self, keeps: bool) -> Result<(), Error> {
        guarded(ruby, || {
            if let Some(recorder) = this.0.recorder() {
                recorder.keep(keeps);
            }
            Ok(())
        })
    }

    fn recorder_id(&self) -> Option<String> {
        self.0.recorder().map(|recorder| recorder.id().to_owned())
    }

    fn recorded_jobs(ruby: &Ruby, this: &Self) -> Result<RArray, Error> {
        guarded(ruby, || {
            let contents = this.0.recorder().and_then(|recorder| recorder.contents());
            recorders::in_hand(ruby, contents.map(|contents| contents.jobs).unwrap_or_default())
        })
    }

    /// What processes that are gone had in hand: name, id, pid, last heartbeat, torn jobs and jobs of each recorder, and
    /// whether it is of this boot.
    fn take_left_behind(ruby: &Ruby, this: &Self) -> Result<RArray, Error> {
        guarded(ruby, || {
            let found = ruby.ary_new();
            for left in this.0.take_left_behind() {
                recorders::add(ruby, found, left)?;
            }
            Ok(found)
        })
    }

    fn forget_left_behind(ruby: &Ruby, this: &Self, name: String) -> Result<(), Error> {
        this.write(ruby, |lifecycle| lifecycle.forget(name.clone()))
    }

    /// What became of a job that a killed process had in hand, as JSON.
    fn note_outcome(ruby: &Ruby, this: &Self, job: String) -> Result<(), Error> {
        guarded(ruby, || {
            this.0.note_outcome(KilledJob::parse(&job).map_err(|error| raise(ruby, error))?);
            Ok(())
        })
    }

    /// Does what may wait for a disk, without the GVL where Ruby lets us.
    fn write<T>(&self, ruby: &Ruby, work: impl Fn(&Lifecycle) -> T) -> Result<T, Error> {
        guarded(ruby, || Ok(gvl::without(|| work(&self.0), None).unwrap_or_else(|| work(&self.0))))
    }
}

/// `SidekiqLifecycle::Native::Claim`: a claim to a directory, beside those of other processes.
#[magnus::wrap(class = "SidekiqLifecycle::Native::Claim", free_immediately, size)]
struct Claim(claim::Claim);

impl Claim {
    fn new(ruby: &Ruby, directory: RString) -> Result<Self, Error> {
        guarded(ruby, || Ok(Self(claim::Claim::new(&path(directory)?))))
    }

    fn take(ruby: &Ruby, this: &Self) -> Result<Option<bool>, Error> {
        guarded(ruby, || Ok(gvl::without(|| this.0.take(), None).flatten()))
    }

    fn is_alone(ruby: &Ruby, this: &Self) -> Result<Option<bool>, Error> {
        guarded(ruby, || Ok(gvl::without(|| this.0.is_alone(), None).flatten()))
    }

    fn leave(ruby: &Ruby, this: &Self) -> Result<(), Error> {
        guarded(ruby, || {
            gvl::without(|| this.0.leave(), None).unwrap_or_else(|| this.0.leave());
            Ok(())
        })
    }
}

fn parse(ruby: &Ruby, about: &str) -> Result<About, Error> {
    About::parse(about).map_err(|error| raise(ruby, error))
}

/// A path is bytes; whatever encoding Ruby has given them, which without a locale is ASCII.
fn path(text: RString) -> Result<PathBuf, Error> {
    let bytes: Vec<u8> = text.funcall("bytes", ())?;
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

fn clear(ruby: &Ruby, directory: RString) -> Result<(), Error> {
    guarded(ruby, || {
        let directory = path(directory)?;
        let clear = || clearing::clear(&directory);
        gvl::without(clear, None).unwrap_or_else(clear).map_err(|error| raise(ruby, error))
    })
}

fn is_http_address(text: String) -> bool {
    http::parse_address(&text).is_some()
}

/// Answers HTTP requests for the directory at that address; nil: no longer.
fn serve_http(ruby: &Ruby, address: Option<String>, directory: RString) -> Result<(), Error> {
    guarded(ruby, || {
        let address = address.as_deref().and_then(http::parse_address);
        let directory = Directory::new(&path(directory)?, None);
        let serve = || endpoint::serve(address, directory.clone());
        gvl::without(serve, None).unwrap_or_else(serve).map_err(|error| raise(ruby, error))
    })
}

fn ignored(ruby: &Ruby) -> Result<Vec<String>, Error> {
    guarded(ruby, || Ok(names(disposition::ignored())))
}

fn unblock(ruby: &Ruby) -> Result<Vec<String>, Error> {
    guarded(ruby, || Ok(names(disposition::unblock().map_err(|errno| raise(ruby, errno))?)))
}

fn displaced(ruby: &Ruby) -> Result<Vec<String>, Error> {
    guarded(ruby, || Ok(names(observer::overridden())))
}

fn named(ruby: &Ruby, name: &str) -> Result<Signal, Error> {
    name.parse().map_err(|_| raise(ruby, format!("{name} is not a signal")))
}

fn names(signals: Vec<Signal>) -> Vec<String> {
    signals.into_iter().map(|signal| signal.to_string()).collect()
}

fn keep_handler(ruby: &Ruby, signal: String) -> Result<(), Error> {
    let signal = named(ruby, &signal)?;
    guarded(ruby, || disposition::save(signal).map_err(|errno| raise(ruby, errno)))
}

fn put_handler_back(ruby: &Ruby, signal: String) -> Result<(), Error> {
    let signal = named(ruby, &signal)?;
    guarded(ruby, || disposition::restore(signal).map_err(|errno| raise(ruby, errno)))
}

fn hold_boot(ruby: &Ruby) -> Result<(), Error> {
    guarded(ruby, || boot_guard::install().map_err(|error| raise(ruby, error)))
}

fn wait_for_stop(ruby: &Ruby) -> Result<Option<String>, Error> {
    let wait = || gvl::without(boot_guard::wait_for_stop, Some(&boot_guard::interrupt_wait)).flatten();
    guarded(ruby, || Ok(wait().map(|signal| signal.to_string())))
}

/// It may take 2 s. A booting process must still receive signals meanwhile, so it runs without the GVL.
fn start_relay(ruby: &Ruby, command: RString, timeout: Option<f64>) -> Result<(), Error> {
    guarded(ruby, || {
        let command = path(command)?;
        let start = || own_path::start_relay(&command, timeout);
        gvl::without(start, None).unwrap_or_else(start);
        Ok(())
    })
}

fn expects_relay() -> bool {
    own_path::expects_relay()
}

fn trapped(ruby: &Ruby, signal: String) -> Result<(), Error> {
    let signal = named(ruby, &signal)?;
    guarded(ruby, || {
        own_path::trapped(signal);
        Ok(())
    })
}

fn stop_relay(ruby: &Ruby) -> Result<(), Error> {
    guarded(ruby, || {
        own_path::stop_relay();
        Ok(())
    })
}

fn is_guarding() -> bool {
    boot_guard::is_active()
}

fn release_boot(ruby: &Ruby) -> Result<(bool, bool), Error> {
    guarded(ruby, || {
        let asked = boot_guard::release();
        Ok((asked.stop, asked.quiet))
    })
}

/// magnus looks the class up when the first object is made, by a call of Ruby's, and panics if that raises. It raises when a
/// signal has come meanwhile, and the process would end with `fatal`. So it is looked up now, and what has come before
/// that is raised as what it is.
fn look_up_classes(ruby: &Ruby) -> Result<(), Error> {
    ruby.eval::<magnus::Value>("nil")?;
    let _ = <Process as TypedData>::class(ruby);
    Ok(())
}

/// Called by Ruby when the extension is required.
#[magnus::init(name = "native")]
fn init(ruby: &Ruby) -> Result<(), Error> {
    let module: RModule = ruby.define_module("SidekiqLifecycle")?.define_module("Native")?;
    module.const_set("VERSION", sidekiq_lifecycle::VERSION)?;
    module.define_singleton_method("clear", function!(clear, 1))?;
    module.define_singleton_method("http_address?", function!(is_http_address, 1))?;
    module.define_singleton_method("serve_http", function!(serve_http, 2))?;
    module.define_singleton_method("ignored_signals", function!(ignored, 0))?;
    module.define_singleton_method("unblock_signals", function!(unblock, 0))?;
    module.define_singleton_method("displaced_signals", function!(displaced, 0))?;
    module.define_singleton_method("keep_handler", function!(keep_handler, 1))?;
    module.define_singleton_method("put_handler_back", function!(put_handler_back, 1))?;
    module.define_singleton_method("install_boot_guard", function!(hold_boot, 0))?;
    module.define_singleton_method("wait_for_stop", function!(wait_for_stop, 0))?;
    module.define_singleton_method("boot_guarded?", function!(is_guarding, 0))?;
    module.define_singleton_method("release_boot_guard", function!(release_boot, 0))?;
    module.define_singleton_method("start_relay", function!(start_relay, 2))?;
    module.define_singleton_method("relay_expected?", function!(expects_relay, 0))?;
    module.define_singleton_method("report_trap_to_relay", function!(trapped, 1))?;
    module.define_singleton_method("stop_relay", function!(stop_relay, 0))?;

    let process = module.define_class("Process", ruby.class_object())?;
    look_up_classes(ruby)?;
    process.define_singleton_method("last", function!(Process::last, 0))?;
    process.define_singleton_method("register", function!(Process::begin, 3))?;
    process.define_method("describe", method!(Process::describe, 1))?;
    process.define_method("notify_systemd", method!(Process::notify, 1))?;
    process.define_method("observe_signals", method!(Process::observe, 0))?;
    process.define_method("record_signal", method!(Process::arrived, 1))?;
    process.define_method("replace_dead_outputs", method!(Process::mute, 0))?;
    process.define_method("record_started", method!(Process::started, 0))?;
    process.define_method("record_quiet", method!(Process::quieted, 0))?;
    process.define_method("record_stopping", method!(Process::stopping, 0))?;
    process.define_method("record_task_protection", method!(Process::record_task_protection, 1))?;
    process.define_method("record_heartbeat", method!(Process::beat, 1))?;
    process.define_method("wait_for_report", method!(Process::listen, 0))?;
    process.define_method("take_stall_report", method!(Process::runs, 0))?;
    process.define_method("record_job_started", method!(Process::takes, 3))?;
    process.define_method("running_for", method!(Process::running_for, 1))?;
    process.define_method("record_job_finished", method!(Process::gives, 1))?;
    process.define_method("record_hooks_started", method!(Process::hooks_begin, 2))?;
    process.define_method("record_hooks_finished", method!(Process::hooks_end, 0))?;
    process.define_method("record_busy", method!(Process::draining, 1))?;
    process.define_method("record_hindrances", method!(Process::hindered, 2))?;
    process.define_method("mark_drained", method!(Process::drained, 0))?;
    process.define_method("record_unfinished", method!(Process::unfinished, 2))?;
    process.define_method("stop_when_drained", method!(Process::stop_when_drained, 1))?;
    process.define_method("record_over", method!(Process::over, 0))?;
    process.define_method("record_exit", method!(Process::ended, 2))?;
    process.define_method("record_restored_trap", method!(Process::rearm, 1))?;
    process.define_method("set_problem", method!(Process::note, 2))?;
    process.define_method("problems", method!(Process::problems, 0))?;
    process.define_method("report", method!(Process::report, 0))?;
    process.define_method("state", method!(Process::state, 0))?;
    process.define_method("drained?", method!(Process::is_drained, 0))?;
    process.define_method("start_recorder", method!(Process::start_recorder, 1))?;
    process.define_method("await_job", method!(Process::await_job, 2))?;
    process.define_method("record_job", method!(Process::record_job, 4))?;
    process.define_method("clear_job", method!(Process::clear_job, 1))?;
    process.define_method("keep_recorder", method!(Process::keep_recorder, 1))?;
    process.define_method("recorder_id", method!(Process::recorder_id, 0))?;
    process.define_method("recorded_jobs", method!(Process::recorded_jobs, 0))?;
    process.define_method("take_left_behind", method!(Process::take_left_behind, 0))?;
    process.define_method("forget_left_behind", method!(Process::forget_left_behind, 1))?;
    process.define_method("note_outcome", method!(Process::note_outcome, 1))?;
    process.define_method("retire", method!(Process::retire, 0))?;
    process.define_method("require_signal_path", method!(Process::require_signal_path, 1))?;
    process.define_method("ours?", method!(Process::is_ours, 0))?;

    let claim = module.define_class("Claim", ruby.class_object())?;
    claim.define_singleton_method("new", function!(Claim::new, 1))?;
    claim.define_method("take", method!(Claim::take, 0))?;
    claim.define_method("alone?", method!(Claim::is_alone, 0))?;
    claim.define_method("leave", method!(Claim::leave, 0))?;

    command_line::init(ruby, module)?;
    recorders::init(module)?;
    progress_bar::init(ruby, module)
}
