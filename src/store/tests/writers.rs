//! Several writers, and urgent work.

use super::*;

#[test]
fn the_lock_excludes_a_second_writer_for_a_while() {
    let place = Place::new();
    let (first, second) = (place.open(), place.open());
    let held = first.lock();
    assert!(held.is_some());
    assert!(second.lock().is_none(), "gives up rather than wait for ever");
    drop(held);
    assert!(second.lock().is_some());
}

#[test]
fn a_waiting_writer_gets_the_lock_when_it_is_free() {
    let place = Place::new();
    let counted = std::sync::Mutex::new((0, 0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let open = place.open();
                    let Some(_lock) = open.lock() else { continue };
                    counted.lock().unwrap().0 += 1;
                    assert_eq!(counted.lock().unwrap().0, 1, "one at a time");
                    counted.lock().unwrap().1 += 1;
                    counted.lock().unwrap().0 -= 1;
                }
            });
        }
    });
    assert!(counted.lock().unwrap().1 > 0);
}

#[test]
fn a_child_forked_while_the_lock_is_held_does_not_keep_it() {
    let place = Place::new();
    let open = place.open();
    let lock = open.lock().unwrap();
    // What a fork leaves in the child: another descriptor of the same open file.
    let inherited = lock.try_clone().unwrap();
    drop(lock);
    assert!(place.open().lock().is_some());
    drop(inherited);
}

#[test]
fn urgent_work_is_done_between_two_records() {
    let place = Place::new();
    let record = own(State::Running);
    place.publish(&record);
    place.sync_sentinels(&record).unwrap();
    assert!(place.ready().exists());
    for pid in 4_000_001..4_000_010 {
        fs::write(place.record_file(pid), "hostile").unwrap();
    }
    let asked = std::cell::Cell::new(0);
    let is_urgent = || {
        asked.set(asked.get() + 1);
        assert_eq!(place.ready().exists(), asked.get() <= 3, "before or after the third time");
        asked.get() == 3
    };
    place.directory.open_with(&is_urgent).unwrap().sync_sentinels(|| Some(record.clone())).unwrap();
    assert!(asked.get() >= 10);
    assert!(!place.ready().exists(), "it is not put up again from what was read before");
}

#[test]
fn kept_descriptors_are_released_but_never_those_of_others() {
    let place = Place::new();
    let mut kept = KeptDescriptors::default();
    assert!(!kept.release());
    for (spare, count) in [(false, 1), (true, NEEDED), (true, NEEDED)] {
        kept.keep(place.open(), spare);
        assert_eq!(kept.0.len(), count);
    }
    assert!(kept.release() && !kept.release());
    // The number has become another file's.
    let theirs = fs::File::open(place.path("sidekiq")).unwrap();
    let wrong = Processes { place: (0, 0), descriptor: theirs.try_clone().unwrap().into() };
    let number = wrong.descriptor.as_raw_fd();
    kept.0.push(wrong);
    assert!(kept.release());
    let seen = fs::metadata(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!(
        (seen.dev(), seen.ino()),
        crate::store::files::device_and_inode(&fstat(&theirs).unwrap()),
        "it is still open"
    );
}
