//! The sizes of tables and indexes.

use std::collections::BTreeMap;

use anyhow::Result;
use tokio_postgres::Client as Sql;

/// A table without its indexes, or an index.
#[derive(Clone, Default)]
struct Relation {
    /// `table`, or the access method of the index.
    kind: String,
    bytes: i64,
    /// Rows that are dead and not yet removed, as Postgres estimates them. `None` for an index.
    dead_rows: Option<i64>,
}

/// The relations of a database by table and name. A table is listed before its indexes.
pub(super) struct Sizes(BTreeMap<(String, bool, String), Relation>);

/// Reads the present sizes.
pub(super) async fn read(sql: &Sql) -> Result<Sizes> {
    // The size of a table includes that of its long values.
    let query =
        "select coalesce(indexed.relname, c.relname)::text, c.relkind = 'i', c.relname::text,
            case when c.relkind = 'i' then am.amname else 'table' end::text,
            case when c.relkind = 'i' then pg_relation_size(c.oid) else pg_table_size(c.oid) end,
            pg_stat_get_dead_tuples(c.oid)
        from pg_class c
            join pg_am am on am.oid = c.relam
            left join pg_index i on i.indexrelid = c.oid
            left join pg_class indexed on indexed.oid = i.indrelid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'i')";
    let rows = sql.query(query, &[]).await?;
    let relations = rows.iter().map(|row| {
        let is_index: bool = row.get(1);
        let dead_rows = (!is_index).then(|| row.get(5));
        let relation = Relation { kind: row.get(3), bytes: row.get(4), dead_rows };
        ((row.get(0), is_index, row.get(2)), relation)
    });
    Ok(Sizes(relations.collect()))
}

impl Sizes {
    fn total(&self) -> i64 {
        self.0.values().map(|relation| relation.bytes).sum()
    }
}

/// The sizes at two times.
pub(super) struct Comparison {
    pub(super) before: Sizes,
    pub(super) after: Sizes,
}

impl Comparison {
    /// Returns how many times as large all relations are together.
    pub(super) fn ratio(&self) -> f64 {
        self.after.total() as f64 / self.before.total() as f64
    }

    /// Prints the relations that have at least a page.
    #[expect(clippy::print_stdout, reason = "the table is the output of the program")]
    pub(super) fn print(&self) {
        println!("\n| relation | kind | after the first load | at the end | times | dead rows |");
        println!("| --- | --- | --: | --: | --: | --: |");
        for (identity, after) in self.after.0.iter().filter(|(_, after)| after.bytes > 0) {
            let (_, is_index, name) = identity;
            let indent = if *is_index { "- " } else { "" };
            let before = self.before.0.get(identity).map_or(0, |before| before.bytes);
            let dead_rows = after.dead_rows.map(|rows| rows.to_string()).unwrap_or_default();
            println!(
                "| {indent}{name} | {} | {} | {} | {} | {dead_rows} |",
                after.kind,
                kilobytes(before),
                kilobytes(after.bytes),
                times(before, after.bytes),
            );
        }
        let (before, after) = (self.before.total(), self.after.total());
        println!(
            "| all | | {} | {} | {} | |",
            kilobytes(before),
            kilobytes(after),
            times(before, after)
        );
    }
}

fn kilobytes(bytes: i64) -> String {
    format!("{} kB", bytes / 1024)
}

fn times(before: i64, after: i64) -> String {
    if before == 0 { String::new() } else { format!("{:.1}", after as f64 / before as f64) }
}
