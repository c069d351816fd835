//! Flight recorders that killed processes have left behind, for a process that is no Sidekiq itself (`fleet recover`).

use magnus::{Error, Object, RArray, RModule, RString, Ruby, function};
use sidekiq_lifecycle::model::killed_job::{KilledJob, Outcome};
use sidekiq_lifecycle::model::recorder;
use sidekiq_lifecycle::store::directory::Directory;
use sidekiq_lifecycle::store::recorders::LeftBehind;

use crate::error::{guarded, raise};
use crate::path;

/// Name, id, pid, last heartbeat, torn jobs and jobs of a recorder, and whether it is of this boot.
pub fn add(ruby: &Ruby, list: RArray, left: LeftBehind) -> Result<(), Error> {
    let contents = left.contents;
    let jobs = in_hand(ruby, contents.jobs)?;
    let is_of_this_boot = !left.identity.is_of_another_boot();
    list.push((left.name, contents.id, left.identity.pid, contents.beat, contents.torn, jobs, is_of_this_boot))
}

/// Number, start, whether another copy is kept, queue and payload of each.
pub fn in_hand(ruby: &Ruby, jobs: Vec<recorder::Job>) -> Result<RArray, Error> {
    let list = ruby.ary_new();
    for job in jobs {
        let [queue, payload] = [&job.queue, &job.payload].map(|bytes| ruby.str_from_slice(bytes));
        list.push((job.entry.number, job.entry.started, job.is_kept(), queue, payload))?;
    }
    Ok(list)
}

/// The recorders in a lifecycle directory whose owners are gone.
fn left_behind(ruby: &Ruby, directory: RString) -> Result<RArray, Error> {
    let directory = Directory::new(&path(directory)?, None);
    guarded(ruby, || {
        let list = ruby.ary_new();
        for left in directory.left_behind().map_err(|error| raise(ruby, error))? {
            add(ruby, list, left)?;
        }
        Ok(list)
    })
}

/// The names of those that cannot be read, and why.
fn unusable(ruby: &Ruby, directory: RString) -> Result<Vec<(String, String)>, Error> {
    let directory = Directory::new(&path(directory)?, None);
    guarded(ruby, || directory.unusable_recorders().map_err(|error| raise(ruby, error)))
}

/// The jobs of a recorder are in Redis: removes it.
fn forget(ruby: &Ruby, directory: RString, name: String) -> Result<(), Error> {
    let directory = Directory::new(&path(directory)?, None);
    guarded(ruby, || directory.open().and_then(|open| open.remove_recorder(&name)).map_err(|error| raise(ruby, error)))
}

/// Notes in the directory what became of a job, as JSON.
fn note_outcome(ruby: &Ruby, directory: RString, job: String) -> Result<(), Error> {
    let directory = Directory::new(&path(directory)?, None);
    guarded(ruby, || {
        let job = KilledJob::parse(&job).map_err(|error| raise(ruby, error))?;
        directory.open().and_then(|open| open.note_outcomes(&[job])).map_err(|error| raise(ruby, error))
    })
}

/// An outcome of that name in words; nil: there is none. `age` is in seconds.
fn format_outcome(name: String, age: Option<f64>) -> Option<String> {
    Outcome::named(&name).map(|outcome| outcome.in_words(age))
}

pub fn init(module: RModule) -> Result<(), Error> {
    module.define_singleton_method("left_behind", function!(left_behind, 1))?;
    module.define_singleton_method("unusable_recorders", function!(unusable, 1))?;
    module.define_singleton_method("forget_left_behind", function!(forget, 2))?;
    module.define_singleton_method("format_outcome", function!(format_outcome, 2))?;
    module.define_singleton_method("note_outcome", function!(note_outcome, 2))
}
