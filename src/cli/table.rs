//! Tables for people.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Column::Left(head) | Column::Right(head) => head,
        }
    }
}

/// Lines of columns, each as wide as it needs to be, with a head. Rows have as many cells as there are columns.
pub fn table<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells
            .chain([columns[at].head().chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for ((cell, column), width) in cells.into_iter().zip(columns).zip(widths) {
            match column {
                Column::Left(_) => line += &format!("{cell:<width$}  "),
                Column::Right(_) => line += &format!("{cell:>width$}  "),
            }
        }
        format!("{}\n", line.trim_end())
    };
    let head = line(columns.map(Column::head));
    let lines = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    lines.fold(head, |text, line| text + &line)
}

/// What is there, or a dash.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let columns = [Column::Right("n"), Column::Left("name"), Column::Left("rest")];
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text = table(columns, &[row(["100", "a", "x"]), row(["7", "größer", ""])]);
        assert_eq!(text, "  n  name    rest\n100  a       x\n  7  größer\n");
        assert_eq!(table(columns, &[]), "n  name  rest\n");
        assert_eq!(
            (or_dash(Some(3)), or_dash(None::<u64>)),
            ("3".to_owned(), "-".to_owned())
        );
    }
}
