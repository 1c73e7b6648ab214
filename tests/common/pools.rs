//! Thread pools of several sizes.

use std::fmt::Debug;

/// Runs the same work on 1, 2 and 3 threads and compares the outcomes.
pub(crate) fn in_pools<R: PartialEq + Debug + Send>(work: impl Fn() -> R + Send + Sync) {
    let [one, two, three] = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool of three threads at most").install(&work)
    });
    assert_eq!(one, two, "two threads change the outcome");
    assert_eq!(one, three, "three threads change the outcome");
}
