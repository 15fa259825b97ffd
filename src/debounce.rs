//! Lets something happen at once, and then at most once per pause. What comes during a pause waits for its end.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

/// One value that is to be acted on at most once per pause: first at once, then at the end of each pause in which
/// there was news. Later news replaces earlier news.
#[derive(Clone, Debug)]
pub struct Debounce<V> {
    pause: Duration,
    /// The end of the last pause.
    not_before: Option<Instant>,
    news: Option<V>,
}

impl<V> Debounce<V> {
    /// Without news, and open for it.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            not_before: None,
            news: None,
        }
    }

    /// Makes `merge` of the waiting news, if any, the news to act on.
    pub fn merge(&mut self, merge: impl FnOnce(Option<V>) -> V) {
        let news = self.news.take();
        self.news = Some(merge(news));
    }

    /// Makes `news` the news to act on.
    pub fn put(&mut self, news: V) {
        self.news = Some(news);
    }

    /// Drops waiting news.
    pub fn clear(&mut self) {
        self.news = None;
    }

    /// Takes the news if there is any and no pause is under way. Another pause then begins.
    pub fn take(&mut self, now: Instant) -> Option<V> {
        if !self.is_open(now) {
            return None;
        }
        let news = self.news.take()?;
        self.not_before = Some(now + self.pause);
        Some(news)
    }

    /// When waiting news can be taken.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.news.as_ref().map(|_| self.not_before.unwrap_or(now))
    }

    /// Whether no pause is under way.
    pub fn is_open(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }
}

/// One [`Debounce`] per key. Each operation costs the logarithm of the number of keys at most, and a key without
/// news is forgotten after its pause.
#[derive(Debug)]
pub struct Debounced<K, V> {
    pause: Duration,
    keys: HashMap<K, Debounce<V>>,
    timers: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Eq + Hash + Ord, V> Debounced<K, V> {
    /// Without any key.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            keys: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Merges news of `key` with its waiting news, if any.
    pub fn merge(&mut self, key: K, now: Instant, merge: impl FnOnce(Option<V>) -> V) {
        let debounce = self.keys.entry(key.clone()).or_insert_with(|| {
            self.timers.insert((now, key));
            Debounce::new(self.pause)
        });
        debounce.merge(merge);
    }

    /// Makes `news` the news of `key`.
    pub fn put(&mut self, key: K, now: Instant, news: V) {
        self.merge(key, now, |_| news);
    }

    /// Takes one piece of news that is due. Call this until there is none.
    pub fn take(&mut self, now: Instant) -> Option<(K, V)> {
        while self.timers.first().is_some_and(|(time, _)| *time <= now) {
            let (_, key) = self.timers.pop_first()?;
            let Some(debounce) = self.keys.get_mut(&key) else {
                continue;
            };
            match debounce.take(now) {
                Some(news) => {
                    self.timers.insert((now + self.pause, key.clone()));
                    return Some((key, news));
                }
                None => {
                    self.keys.remove(&key);
                }
            }
        }
        None
    }

    /// When [`Self::take`] is to be called next.
    pub fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[test]
    fn the_first_news_is_due_at_once_and_the_rest_once_per_pause() {
        let (mut debounce, start) = (Debounce::new(PAUSE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(debounce.take(start), None, "no news");
        debounce.put(1);
        assert_eq!(debounce.take(start), Some(1));
        debounce.put(2);
        debounce.merge(|waiting| waiting.unwrap_or(0) + 10);
        assert_eq!((debounce.take(at(4)), debounce.due(at(4))), (None, Some(at(5))));
        assert_eq!(debounce.take(at(5)), Some(12));
        debounce.put(3);
        debounce.clear();
        assert_eq!(debounce.take(at(20)), None);
        debounce.put(4);
        assert_eq!(debounce.due(at(20)), Some(at(10)), "the pause is over");
        assert_eq!(debounce.take(at(20)), Some(4));
    }

    #[test]
    fn each_key_has_its_own_pause_and_is_forgotten_after_it() {
        let (mut debounced, start) = (Debounced::new(PAUSE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        debounced.put("a", start, 1);
        assert_eq!(debounced.take(start), Some(("a", 1)));
        debounced.put("a", at(1), 2);
        debounced.put("b", at(1), 3);
        assert_eq!(debounced.take(at(1)), Some(("b", 3)));
        assert_eq!((debounced.take(at(1)), debounced.due()), (None, Some(at(5))));
        assert_eq!(debounced.take(at(5)), Some(("a", 2)));
        assert_eq!(debounced.take(at(30)), None);
        assert!(debounced.keys.is_empty() && debounced.due().is_none());
    }
}
