//! What people and channels of the demo are called: the same name for the same id, in every run.

use super::chat::{channels, users};

const FIRST: [&str; 40] = [
    "Ada", "Ben", "Chloe", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
    "Mira", "Nils", "Olga", "Paul", "Quinn", "Rosa", "Sami", "Tara", "Uma", "Viktor", "Wanda", "Ximena",
    "Yuki", "Zoe", "Amir", "Bea", "Carlos", "Dana", "Emil", "Fay", "Goran", "Hana", "Ivan", "Juno", "Kofi",
    "Lena", "Marek", "Nora",
];
const LAST: [&str; 10] = ["A", "B", "D", "F", "K", "L", "M", "R", "S", "W"];
const CHANNELS: [&str; 24] = [
    "general",
    "random",
    "support",
    "releases",
    "design",
    "music",
    "incidents",
    "coffee",
    "hiring",
    "rust",
    "books",
    "games",
    "data",
    "security",
    "travel",
    "lunch",
    "mobile",
    "oncall",
    "photos",
    "standup",
    "food",
    "docs",
    "retro",
    "puzzles",
];

/// Of a user; where it is none of the demo's (a file of events), the id.
pub fn user_name(id: u64) -> String {
    if id == 0 {
        return "the system".to_owned();
    }
    if !users().contains(&id) {
        return format!("user {id}");
    }
    let number = (id - users().start()) as usize;
    let (first, last) = (
        FIRST[number % FIRST.len()],
        LAST[number / FIRST.len() % LAST.len()],
    );
    format!("{first} {last}.")
}

/// Of a channel; where it is none of the demo's, the id.
pub fn channel_name(id: u64) -> String {
    if !channels().contains(&id) {
        return format!("channel {id}");
    }
    format!(
        "#{}",
        CHANNELS[(id - channels().start()) as usize % CHANNELS.len()]
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everyone_has_a_name_of_their_own() {
        let people: BTreeSet<_> = users().map(user_name).collect();
        let places: BTreeSet<_> = channels().map(channel_name).collect();
        assert_eq!(
            (people.len(), places.len()),
            (users().count(), channels().count())
        );
        assert_eq!(user_name(7), "user 7");
        assert_eq!(channel_name(7), "channel 7");
    }
}
