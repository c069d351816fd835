//! Waiting without the GVL, so that jobs keep running.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

struct Work<F, T> {
    body: Option<F>,
    done: Option<T>,
}

/// Makes a body return early. It is called on another thread.
pub type Unblock<'a> = &'a (dyn Fn() + Sync);

/// Runs `body` without the GVL. It may block; it may not touch Ruby. `unblock` makes it return early when Ruby wants
/// the thread (at exit, or for `Thread#raise`). `None`: it did not run, because Ruby wants the thread already, or it
/// panicked.
///
/// The variant that leaves pending interrupts alone is used (`rb_thread_call_without_gvl2`, Ruby's `thread.c`): the
/// other raises them from inside, jumping over Rust's frames.
pub fn without<F, T>(body: F, unblock: Option<Unblock<'_>>) -> Option<T>
where
    F: FnOnce() -> T,
{
    extern "C" fn interrupt(unblock: *mut c_void) {
        // SAFETY: `unblock` is the one below, which outlives the call that Ruby interrupts.
        let unblock = unsafe { &*unblock.cast::<Unblock<'_>>() };
        let _ = catch_unwind(AssertUnwindSafe(unblock));
    }
    let function = unblock.as_ref().map(|_| interrupt as unsafe extern "C" fn(*mut c_void));
    let data = unblock.as_ref().map_or(ptr::null_mut(), |unblock| ptr::from_ref(unblock).cast_mut().cast());
    run(body, function, data)
}

/// Runs `body` as [`without`] does. When Ruby wants the thread, it sends it a signal, so that a system call returns EINTR.
pub fn without_until_signalled<F, T>(body: F) -> Option<T>
where
    F: FnOnce() -> T,
{
    // SAFETY: Ruby's own mark for this (`RUBY_UBF_IO`, in its `ruby/thread.h`), which it compares and does not call.
    let mark = unsafe { std::mem::transmute::<isize, unsafe extern "C" fn(*mut c_void)>(-1) };
    run(body, Some(mark), ptr::null_mut())
}

fn run<F, T>(body: F, unblock: rb_sys::rb_unblock_function_t, unblock_data: *mut c_void) -> Option<T>
where
    F: FnOnce() -> T,
{
    extern "C" fn call<F: FnOnce() -> T, T>(work: *mut c_void) -> *mut c_void {
        // SAFETY: `work` is the `Work<F, T>` below; Ruby calls this at most once, before `without` returns.
        let work = unsafe { &mut *work.cast::<Work<F, T>>() };
        work.done = work.body.take().and_then(|body| catch_unwind(AssertUnwindSafe(body)).ok());
        ptr::null_mut()
    }
    let mut work = Work { body: Some(body), done: None };
    let data = ptr::from_mut(&mut work).cast();
    // SAFETY: called on a Ruby thread that holds the GVL, as every method of this extension is. `call` and `unblock`
    // have the signatures Ruby wants and do not unwind; what they are given outlives the call.
    unsafe { rb_sys::rb_thread_call_without_gvl2(Some(call::<F, T>), data, unblock, unblock_data) };
    work.done
}
