//! A signal goes down the path, link by link: which links get it, and what becomes of it.

use super::{Effect, Fate, Handling, KillMode, Link, Path, Request};
use crate::model::program::Program;
use crate::model::wrappers;

impl Path {
    /// What becomes of a signal, and the index of the link that decides it.
    #[must_use]
    pub fn fate(&self, request: Request) -> (Fate, usize) {
        if self.is_beside {
            return (Fate::Lost, self.links.len() - 1);
        }
        let Some(top) = self.links.len().checked_sub(1).filter(|top| *top > 0) else { return (Fate::Arrives, 0) };
        let is_for_all = self.kill_mode == Some(KillMode::ControlGroup);
        let mut walk = Walk { reached: vec![is_for_all; self.links.len()], is_for_all, ..Walk::default() };
        walk.reach(top);
        for index in (1..=top).rev() {
            if let Some(link) = self.links.get(index).filter(|_| walk.has_reached(index)) {
                self.step(link, index, request, &mut walk);
            }
        }
        walk.end()
    }

    /// What a link that has received the signal does with it.
    fn step(&self, link: &Link, index: usize, request: Request, walk: &mut Walk) {
        let below = index - 1;
        // systemd signals the main process; a person at a shell signals the processes themselves.
        if link.program == Program::Manager || (link.is_used_by_person() && !self.ends_all(index)) || link.is_machines {
            return walk.reach(below);
        }
        match link.effect(request) {
            Effect::Arrives => {}
            Effect::Forwards if link.program == Program::Run => self.run(link, index, request, walk),
            Effect::Forwards => walk.reach(below),
            Effect::ForwardsToGroup => self.group(below).for_each(|index| walk.reach(index)),
            Effect::Freezes if self.group(below).any(|member| member == 0) => walk.mark_frozen(index),
            Effect::Freezes | Effect::Stops | Effect::Defers | Effect::Drops => walk.mark_swallowed(index),
            // dumb-init receives its signals itself; the relay only keeps it from suspending Sidekiq.
            Effect::Relayed if link.program == Program::DumbInit => walk.reach(below),
            // The relay signals Sidekiq itself, or the program that decides for several.
            Effect::Relayed => walk.reach(self.decider(index, request)),
            Effect::Kills => {
                walk.reach(below);
                self.check_kill(link.kills_after.unwrap_or_default(), index, walk);
            }
            // systemd may signal all of the service's processes, or only this one.
            Effect::Dies if self.kill_mode.is_none() && self.is_below_manager(index) => {
                walk.mark_doubtful(index);
                walk.reach(below);
            }
            // systemd waits for everything that is left.
            Effect::Dies | Effect::Leaves if walk.is_for_all => {}
            Effect::Dies | Effect::Leaves if walk.outlives => walk.reach(0),
            Effect::Dies | Effect::Leaves => walk.mark_early(index),
            Effect::Traps | Effect::Unknown => {
                walk.mark_doubtful(index);
                walk.reach(below);
            }
        }
    }

    /// The links below an init that receive what it sends to the process group of its child, `below`.
    fn group(&self, below: usize) -> impl Iterator<Item = usize> {
        let group = self.links.get(below).map(|child| child.pid);
        let members = self.links.iter().take(below + 1).enumerate();
        members.filter(move |(_, link)| Some(link.group) == group).map(|(index, _)| index)
    }

    /// What `run` does: it signals the processes that its rule selects, and stops a worker that outlives the command
    /// and waits for it.
    fn run(&self, run: &Link, index: usize, request: Request, walk: &mut Walk) {
        let signalled =
            self.links.iter().take(index).enumerate().filter(|(_, link)| link.signalled_by_run.contains(&request));
        signalled.for_each(|(index, _)| walk.reach(index));
        walk.outlives = request == Request::Stop && self.needed.unwrap_or_default() <= wrappers::grace(&run.arguments);
        match run.kills_after {
            Some(seconds) if request == Request::Stop => self.check_kill(seconds, index, walk),
            _ => {}
        }
    }

    /// A link that kills some seconds after TERM.
    fn check_kill(&self, seconds: f64, index: usize, walk: &mut Walk) {
        match self.needed {
            Some(needed) if needed <= seconds => {}
            Some(_) => walk.mark_early(index),
            None => walk.mark_doubtful(index),
        }
    }

    /// The first link below this one that handles the signal for several programs, or Sidekiq.
    fn decider(&self, index: usize, request: Request) -> usize {
        let decides = |below: &usize| {
            self.links.get(*below).is_some_and(|link| {
                link.program.decides() && matches!(link.handling(request), Handling::Handled | Handling::Blocked)
            })
        };
        (1..index).rev().find(decides).unwrap_or(0)
    }

    fn is_below_manager(&self, index: usize) -> bool {
        self.links.get(index + 1).is_some_and(|parent| parent.program == Program::Manager)
    }
}

/// A signal on its way down the path.
#[derive(Default)]
struct Walk {
    /// The links that receive it, by index.
    reached: Vec<bool>,
    /// All have received it at once from systemd, which waits for all of them.
    is_for_all: bool,
    /// `run` is above: it stops what outlives its command, and waits for it.
    outlives: bool,
    frozen: Option<usize>,
    /// The first link that does nothing with it.
    swallowed: Option<usize>,
    /// The first link that exits or kills before Sidekiq has finished.
    early: Option<usize>,
    /// The last link whose behaviour is not visible.
    doubtful: Option<usize>,
}

impl Walk {
    fn reach(&mut self, index: usize) {
        if let Some(reached) = self.reached.get_mut(index) {
            *reached = true;
        }
    }

    fn has_reached(&self, index: usize) -> bool {
        self.reached.get(index) == Some(&true)
    }

    fn mark_frozen(&mut self, index: usize) {
        self.frozen.get_or_insert(index);
    }

    fn mark_swallowed(&mut self, index: usize) {
        self.swallowed.get_or_insert(index);
    }

    fn mark_early(&mut self, index: usize) {
        self.early.get_or_insert(index);
    }

    fn mark_doubtful(&mut self, index: usize) {
        self.doubtful = Some(index);
    }

    fn end(self) -> (Fate, usize) {
        let arrived = self.has_reached(0);
        match (self.frozen, self.early, self.swallowed, self.doubtful) {
            (Some(index), ..) => (Fate::Freezes, index),
            (_, Some(index), ..) if arrived => (Fate::CutShort, index),
            (_, early, swallowed, doubtful) if !arrived => {
                (Fate::Lost, early.max(swallowed).or(doubtful).unwrap_or_default())
            }
            (.., Some(index)) => (Fate::Unknown, index),
            _ => (Fate::Arrives, 0),
        }
    }
}
