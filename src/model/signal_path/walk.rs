//! A signal goes down the path, link by link: which links get it, and what becomes of it.

use super::{Asked, Effect, Fate, Handling, KillMode, Link, Path};
use crate::model::program::Program;
use crate::model::wrappers;

impl Path {
    /// What becomes of a signal, and the index of the link that decides it.
    #[must_use]
    pub fn fate(&self, asked: Asked) -> (Fate, usize) {
        if self.is_beside {
            return (Fate::Lost, self.links.len() - 1);
        }
        let Some(top) = self.links.len().checked_sub(1).filter(|top| *top > 0) else { return (Fate::Arrives, 0) };
        let is_for_all = self.kill_mode == Some(KillMode::ControlGroup);
        let mut walk = Walk { told: vec![is_for_all; self.links.len()], is_for_all, ..Walk::default() };
        walk.tell(top);
        for index in (1..=top).rev() {
            if let Some(link) = self.links.get(index).filter(|_| walk.is_told(index)) {
                self.step(link, index, asked, &mut walk);
            }
        }
        walk.end()
    }

    /// What a link that has received the signal does with it.
    fn step(&self, link: &Link, index: usize, asked: Asked, walk: &mut Walk) {
        let below = index - 1;
        // systemd signals the main process; a person at a shell signals the processes themselves.
        if link.program == Program::Manager || (link.is_persons() && !self.ends_all(index)) || link.is_machines {
            return walk.tell(below);
        }
        match link.effect(asked) {
            Effect::Arrives => {}
            Effect::Forwards if link.program == Program::Run => self.run(link, index, asked, walk),
            Effect::Forwards => walk.tell(below),
            Effect::ForwardsToGroup => self.group(below).for_each(|told| walk.tell(told)),
            Effect::Freezes if self.group(below).any(|member| member == 0) => walk.freezes(index),
            Effect::Freezes | Effect::Stops | Effect::Defers | Effect::Drops => walk.swallows(index),
            // dumb-init receives its signals itself; the relay only keeps it from suspending Sidekiq.
            Effect::Relayed if link.program == Program::DumbInit => walk.tell(below),
            // The relay signals Sidekiq itself, or the program that decides for several.
            Effect::Relayed => walk.tell(self.decider(index, asked)),
            Effect::Kills => {
                walk.tell(below);
                self.kills(link.kills_after.unwrap_or_default(), index, walk);
            }
            // systemd may signal all of the service's processes, or only this one.
            Effect::Dies if self.kill_mode.is_none() && self.is_below_manager(index) => {
                walk.doubts(index);
                walk.tell(below);
            }
            // systemd waits for everything that is left.
            Effect::Dies | Effect::Leaves if walk.is_for_all => {}
            Effect::Dies | Effect::Leaves if walk.outlives => walk.tell(0),
            Effect::Dies | Effect::Leaves => walk.ends_early(index),
            Effect::Traps | Effect::Unknown => {
                walk.doubts(index);
                walk.tell(below);
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
    fn run(&self, run: &Link, index: usize, asked: Asked, walk: &mut Walk) {
        let told = self.links.iter().take(index).enumerate().filter(|(_, link)| link.told_by_run.contains(&asked));
        told.for_each(|(told, _)| walk.tell(told));
        walk.outlives = asked == Asked::Stop && self.needed.unwrap_or_default() <= wrappers::grace(&run.arguments);
        match run.kills_after {
            Some(seconds) if asked == Asked::Stop => self.kills(seconds, index, walk),
            _ => {}
        }
    }

    /// A link that kills some seconds after TERM.
    fn kills(&self, seconds: f64, index: usize, walk: &mut Walk) {
        match self.needed {
            Some(needed) if needed <= seconds => {}
            Some(_) => walk.ends_early(index),
            None => walk.doubts(index),
        }
    }

    /// The first link below this one that handles the signal for several programs, or Sidekiq.
    fn decider(&self, index: usize, asked: Asked) -> usize {
        let decides = |below: &usize| {
            self.links.get(*below).is_some_and(|link| {
                link.program.decides() && matches!(link.handling(asked), Handling::Handled | Handling::Blocked)
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
    told: Vec<bool>,
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
    fn tell(&mut self, index: usize) {
        if let Some(told) = self.told.get_mut(index) {
            *told = true;
        }
    }

    fn is_told(&self, index: usize) -> bool {
        self.told.get(index) == Some(&true)
    }

    fn freezes(&mut self, index: usize) {
        self.frozen.get_or_insert(index);
    }

    fn swallows(&mut self, index: usize) {
        self.swallowed.get_or_insert(index);
    }

    fn ends_early(&mut self, index: usize) {
        self.early.get_or_insert(index);
    }

    fn doubts(&mut self, index: usize) {
        self.doubtful = Some(index);
    }

    fn end(self) -> (Fate, usize) {
        let arrived = self.is_told(0);
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
