//! Trouble that lasts is said once, and then from time to time.

use std::time::{Duration, Instant};

/// Time after which the same trouble is worth another line.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Says what keeps a task waiting: when it is something new, and from time to time.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Option<(String, Instant)>);

impl Complaints {
    /// Whether this is worth a line in the log. Numbers in it change with every block and make it nothing new.
    pub(crate) fn is_news(&mut self, complaint: &str) -> bool {
        let kind: String = complaint.chars().filter(|c| !c.is_ascii_digit()).collect();
        let news = self.0.as_ref().is_none_or(|(last, at)| *last != kind || at.elapsed() > AGAIN_AFTER);
        if news {
            self.0 = Some((kind, Instant::now()));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_made_once_however_its_numbers_change() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_news("gas costs 71 wei"));
        assert!(!complaints.is_news("gas costs 1234 wei"));
        assert!(complaints.is_news("connection refused"));
    }
}
