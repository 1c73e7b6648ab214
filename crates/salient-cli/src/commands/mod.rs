//! One module per subcommand: its arguments, and what it prints.

pub(crate) mod bench;
mod device;
pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod inspect;
mod model;
mod scorers;
pub(crate) mod train;

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use salient_lab::output;
use serde::Serialize;

/// Prints one JSON document.
fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = output::stdout();
    writeln!(out, "{}", serde_json::to_string_pretty(document)?)?;
    Ok(())
}

/// An empty table: names to the left, figures to the right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(figures_row(&header.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()));
    table
}

/// A row whose first cell is a name and whose others are figures.
fn figures_row(cells: &[String]) -> Vec<Cell> {
    let align = |i| if i == 0 { CellAlignment::Left } else { CellAlignment::Right };
    cells.iter().enumerate().map(|(i, cell)| Cell::new(cell).set_alignment(align(i))).collect()
}
