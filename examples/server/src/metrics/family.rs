//! Families of metrics: series under one name, by their labels.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::value::{Counter, Distribution, Histogram, Scale, Value};

/// The value of a label.
type Label = Arc<str>;

/// One thread's series of a family.
#[derive(Debug)]
pub(super) struct Family<T, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    series: Mutex<HashMap<[Label; N], Arc<T>>>,
}

impl<T, const N: usize> Family<T, N> {
    pub(super) fn is_empty(&self) -> bool {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.is_empty()
    }
}

impl<T: Default, const N: usize> Family<T, N> {
    pub(super) fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self {
            name,
            help,
            labels,
            series: Mutex::default(),
        }
    }

    /// The series with these labels, to be written by the family's thread only.
    pub(super) fn series(&self, labels: [&str; N]) -> Arc<T> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = labels.map(Label::from);
        series.entry(labels).or_default().clone()
    }
}

/// A family's sums over all threads, in the order of the labels.
pub(super) fn encode<'a, T: Encode + 'a, const N: usize>(
    families: impl Iterator<Item = &'a Family<T, N>>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut families = families.peekable();
    let Some(&&Family {
        name, help, labels, ..
    }) = families.peek()
    else {
        return Ok(());
    };
    let mut sums = BTreeMap::<[Label; N], T::Sum>::new();
    for family in families {
        let series = family.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, value) in &*series {
            value.add_to(sums.entry(labels.clone()).or_default());
        }
    }
    let mut encoder = encoder.encode_descriptor(name, help, None, T::TYPE)?;
    for (values, sum) in &sums {
        let labels = LabelSet {
            names: &labels,
            values,
        };
        T::encode(sum, &mut encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A value that has a form in the exposition.
pub(super) trait Encode: Value {
    const TYPE: MetricType;

    fn encode(sum: &Self::Sum, encoder: &mut MetricEncoder<'_>) -> fmt::Result;
}

impl Encode for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn encode(sum: &u64, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter(sum, None::<&Exemplar<[(&str, &str); 0], f64>>)
    }
}

impl<S: Scale> Encode for Histogram<S> {
    const TYPE: MetricType = MetricType::Histogram;

    fn encode(sum: &Distribution, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<[(&str, &str); 0]>(
            sum.sum::<S>(),
            sum.count(),
            &sum.buckets::<S>(),
            None,
        )
    }
}

struct LabelSet<'a> {
    names: &'a [&'static str],
    values: &'a [Label],
}

/// Absent where an exchange went well; other labels without a value are empty.
pub(super) const ERROR_TYPE: &str = "error_type";

impl EncodeLabelSet for LabelSet<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(self.values) {
            if *name != ERROR_TYPE || !value.is_empty() {
                (*name, &**value).encode(encoder.encode_label())?;
            }
        }
        Ok(())
    }
}
