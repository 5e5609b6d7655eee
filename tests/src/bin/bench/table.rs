//! A table: as text that is Markdown, and as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

/// What is in a place of a table.
pub enum Cell {
    /// Milliseconds.
    Ms(f64),
    /// How many times as much.
    Ratio(f64),
    /// A number of things.
    Count(u64),
    /// Does not apply, or was not measured.
    None,
}

/// A table with a title; what is to know about it follows it.
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Cell>)>,
    notes: Vec<String>,
}

impl Table {
    /// Without rows. The names of the rows are a column without a name.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|column| (*column).into()).collect(),
            rows: vec![],
            notes: vec![],
        }
    }

    /// One more row.
    pub fn row(&mut self, name: impl Into<String>, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "cells of {}", self.title);
        self.rows.push((name.into(), cells));
    }

    /// One more remark.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// For programs.
    pub fn json(&self, part: &str) -> Value {
        let rows = self.rows.iter().map(|(name, cells)| {
            let mut row = Map::new();
            row.insert("name".into(), json!(name));
            for (column, cell) in self.columns.iter().zip(cells) {
                row.insert(column.clone(), cell.json());
            }
            Value::Object(row)
        });
        json!({
            "part": part,
            "title": self.title,
            "rows": rows.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl Cell {
    fn json(&self) -> Value {
        match self {
            Self::Ms(value) | Self::Ratio(value) => json!(value),
            Self::Count(value) => json!(value),
            Self::None => Value::Null,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Ms(value) | Self::Ratio(value) if !value.is_finite() => f.write_str("-"),
            Self::Ms(value) | Self::Ratio(value) if value.abs() < 0.095 => write!(f, "{value:.3}"),
            Self::Ms(value) | Self::Ratio(value) if value.abs() < 20.0 => write!(f, "{value:.2}"),
            Self::Ms(value) | Self::Ratio(value) => write!(f, "{value:.0}"),
            Self::Count(value) => write!(f, "{value}"),
            Self::None => f.write_str("-"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let texts: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let cells = cells.iter().map(Cell::to_string);
                std::iter::once(name.clone()).chain(cells).collect()
            })
            .collect();
        let mut head = vec![String::new()];
        head.extend(self.columns.iter().cloned());
        let widths: Vec<usize> = (0..head.len())
            .map(|at| {
                let all = texts.iter().map(|row| row[at].chars().count());
                all.chain([head[at].chars().count(), 3]).max().unwrap_or(3)
            })
            .collect();
        writeln!(f, "**{}**\n", self.title)?;
        write_row(f, &head, &widths)?;
        let rules: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(at, width)| match at {
                0 => "-".repeat(*width),
                _ => "-".repeat(width - 1) + ":",
            })
            .collect();
        write_row(f, &rules, &widths)?;
        for row in &texts {
            write_row(f, row, &widths)?;
        }
        for note in &self.notes {
            write!(f, "\n{note}\n")?;
        }
        Ok(())
    }
}

/// Names to the left, numbers to the right.
fn write_row(f: &mut fmt::Formatter, cells: &[String], widths: &[usize]) -> fmt::Result {
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        match at {
            0 => write!(f, "| {cell:width$} ")?,
            _ => write!(f, "| {cell:>width$} ")?,
        }
    }
    writeln!(f, "|")
}
