//! Several callers of the CRI at once, as the kubelet is.

use std::{
    iter,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::Node;
use crate::{Cri, namespace};

impl Node {
    /// The results of `work` for 0, 1, ... `count`, from so many callers with a connection
    /// each. Whoever is free takes the next.
    pub fn by_callers<T: Send>(
        &self,
        callers: usize,
        count: usize,
        work: impl Fn(&Cri, usize) -> T + Sync,
    ) -> Vec<T> {
        let next = AtomicUsize::new(0);
        let caller = || {
            let cri = self.cri();
            iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
                .take_while(|number| *number < count)
                .map(|number| (number, work(&cri, number)))
                .collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
            let mut results: Vec<_> = callers
                .into_iter()
                .flat_map(|caller| namespace::joined(caller.join()))
                .collect();
            results.sort_by_key(|(number, _)| *number);
            results.into_iter().map(|(_, result)| result).collect()
        })
    }
}
