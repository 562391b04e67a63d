//! The store's limiter: sums over all memories and tables of a task, because wasmtime
//! queries it for each of them separately, and over the regions that were made for it.
//!
//! Invariant: `memory`, `on_host` and the bytes of those regions together never exceed
//! `max_memory`, and `table_elements` never exceeds `max_table_elements`. The runner counts
//! regions ([`crate::region`]); the number known here can only be too large, and is updated
//! before anything is refused. Growth that was allowed and then failed in the operating
//! system stays counted: wasmtime also reports a failure for calls that it did not query,
//! so subtracting would let a guest shrink its own account.

use super::engine::WIDE_MEMORY;
use crate::region::{Draft, Kind, Region, RegionError};
use crate::services::{ServiceRequest, ServiceResponse, Services};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wasmtime::{ResourceLimiter, ResourceLimiterAsync};
use wrun_types::limits::Limit;

/// Maximum of regions that one task holds: each is a descriptor. A message that arrives can
/// bring more.
const MAX_REGIONS: usize = 256;

pub(crate) struct Limiter {
    max_memory: usize,
    max_table_elements: usize,
    max_instances: usize,
    memory: usize,
    peak_memory: usize,
    table_elements: usize,
    refused: u64,
    /// The limit of the last refusal.
    refused_by: Option<Limit>,
    services: Arc<dyn Services>,
    /// Bytes of the regions that were made for it, or more.
    in_regions: usize,
    /// Bytes that the host keeps for it: listings of directories.
    on_host: usize,
    /// Regions that it holds.
    held: Arc<AtomicUsize>,
}

/// One of the regions that a task holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct RegionSlot(Arc<AtomicUsize>);

impl Drop for RegionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Limiter {
    pub(crate) fn new(limits: &wrun_types::limits::Limits, services: Arc<dyn Services>) -> Self {
        Limiter {
            max_memory: usize::try_from(limits.max_memory).unwrap_or(usize::MAX),
            max_table_elements: usize::try_from(limits.max_table_elements).unwrap_or(usize::MAX),
            max_instances: limits.max_instances as usize,
            memory: 0,
            peak_memory: 0,
            table_elements: 0,
            refused: 0,
            refused_by: None,
            services,
            in_regions: 0,
            on_host: 0,
            held: Arc::default(),
        }
    }

    /// Takes over the counts of `other`, from an instance that this store is to get, if
    /// they fit.
    pub(crate) fn takes_over(&mut self, other: &Limiter) -> bool {
        let fits = self.max_memory >= other.memory
            && self.max_table_elements >= other.table_elements
            // Only the store knows how many there are.
            && self.max_instances >= other.max_instances
            && other.refused == 0;
        if fits {
            self.memory = other.memory;
            self.peak_memory = other.peak_memory;
            self.table_elements = other.table_elements;
        }
        fits
    }

    /// Requests a region, if there may be one.
    pub(crate) async fn make(
        &mut self,
        len: u64,
        kind: Kind,
    ) -> Result<(Draft, RegionSlot), RegionError> {
        // An invalid region is not requested.
        Draft::memory(len, kind)?;
        let slot = self.slot().ok_or(RegionError::Limit)?;
        let own = self.memory.saturating_add(self.on_host);
        let room = self.max_memory.saturating_sub(own) as u64;
        let made = match self
            .services
            .request(ServiceRequest::Region { len, kind, room })
            .await
        {
            ServiceResponse::Region(made) => made,
            _ => Err(RegionError::Limit),
        };
        let (draft, in_regions) = made.inspect_err(|error| {
            // A shortage of the system is not a limit of the task.
            if error.errno() == RegionError::Limit.errno() {
                self.refuse(Limit::Memory);
            }
        })?;
        self.in_regions = usize::try_from(in_regions).unwrap_or(usize::MAX);
        let total = own.saturating_add(self.in_regions);
        self.peak_memory = self.peak_memory.max(total.min(self.max_memory));
        Ok((draft, slot))
    }

    /// Counts bytes that the host keeps for the task, if they fit.
    pub(crate) fn keep(&mut self, bytes: usize) -> bool {
        let total = self
            .memory
            .saturating_add(self.in_regions)
            .saturating_add(self.on_host)
            .saturating_add(bytes);
        if total > self.max_memory {
            self.refuse(Limit::Memory);
            return false;
        }
        self.on_host = self.on_host.saturating_add(bytes);
        self.peak_memory = self.peak_memory.max(total);
        true
    }

    /// The host no longer keeps these bytes, which were counted.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.on_host = self.on_host.saturating_sub(bytes);
    }

    /// Whether the result of one call can have this many bytes. If not, it is counted as
    /// refused memory.
    pub(crate) fn can_return(&mut self, len: usize) -> bool {
        let fits = self.can_hold(len);
        if !fits {
            self.refuse(Limit::Memory);
        }
        fits
    }

    /// Has the runner claim a region that came from another process. If other processes
    /// have it, it is unchanged.
    ///
    /// # Errors
    ///
    /// The runner does not respond; the region is gone.
    pub(crate) async fn claim(&mut self, region: Region) -> Result<Region, RegionError> {
        let (file, claim) = match region.into_claim() {
            Ok(claim) => claim,
            Err(region) => return Ok(region),
        };
        match self.services.request(ServiceRequest::Claim(file)).await {
            ServiceResponse::Claimed { file, sole } => Ok(claim.answered(file, sole)),
            _ => Err(RegionError::Limit),
        }
    }

    /// A slot for one more region, if it may be held.
    pub(crate) fn slot(&self) -> Option<RegionSlot> {
        (self.held.load(Relaxed) < MAX_REGIONS).then(|| self.slot_for_received())
    }

    /// A slot for a region that came in a message.
    pub(crate) fn slot_for_received(&self) -> RegionSlot {
        self.held.fetch_add(1, Relaxed);
        RegionSlot(self.held.clone())
    }

    /// Whether it holds more regions than it may.
    pub(crate) fn holds_too_many(&self) -> bool {
        self.held.load(Relaxed) > MAX_REGIONS
    }

    /// Whether it has regions, or others may have regions that were made for it.
    pub(crate) fn has_regions(&self) -> bool {
        self.in_regions > 0 || self.held.load(Relaxed) > 0
    }

    /// Whether this many bytes fit into its memory.
    pub(crate) fn can_hold(&self, len: usize) -> bool {
        len <= self.max_memory
    }

    /// Maximum of linear memory and regions that the task had at once, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_memory as u64
    }

    /// How often growth of a memory or a table was refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Which limit refused growth last.
    pub(crate) fn refused_by(&self) -> Option<Limit> {
        self.refused_by
    }

    fn refuse(&mut self, limit: Limit) {
        self.refused += 1;
        self.refused_by = Some(limit);
    }
}

/// For guests that may have regions.
#[async_trait::async_trait]
impl ResourceLimiterAsync for Limiter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let delta = desired.saturating_sub(current);
        let own = self
            .memory
            .saturating_add(delta)
            .saturating_add(self.on_host);
        if own.saturating_add(self.in_regions) > self.max_memory && self.in_regions > 0 {
            // Others may have dropped some meanwhile.
            if let ServiceResponse::RegionBytes(bytes) =
                self.services.request(ServiceRequest::RegionBytes).await
            {
                self.in_regions = usize::try_from(bytes).unwrap_or(usize::MAX);
            }
        }
        ResourceLimiter::memory_growing(self, current, desired, maximum)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        ResourceLimiter::table_growing(self, current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.max_instances
    }

    fn tables(&self) -> usize {
        self.max_instances
    }

    fn memories(&self) -> usize {
        self.max_instances
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let delta = desired.saturating_sub(current);
        let memory = self.memory.saturating_add(delta);
        let own = memory.saturating_add(self.on_host);
        let total = own.saturating_add(self.in_regions);
        // Memory that cannot be provided is refused here, where that is counted: growth that
        // fails in the engine leaves no trace.
        if total > self.max_memory || (current > 0 && desired as u64 > WIDE_MEMORY) {
            self.refuse(Limit::Memory);
            return Ok(false);
        }
        // Beyond its own declared maximum: refused by the guest, not by the limit.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory = memory;
        self.peak_memory = self.peak_memory.max(total);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let delta = desired.saturating_sub(current);
        let total = self.table_elements.saturating_add(delta);
        if total > self.max_table_elements {
            self.refuse(Limit::TableElements);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.max_instances
    }

    fn tables(&self) -> usize {
        self.max_instances
    }

    fn memories(&self) -> usize {
        self.max_instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{Ledger, Maker};
    use crate::services::Notification;
    use wrun_types::limits::Limits;

    /// The services of a runner that concern regions.
    struct Regions(Maker);

    #[async_trait::async_trait]
    impl Services for Regions {
        async fn request(&self, request: ServiceRequest) -> ServiceResponse {
            match request {
                ServiceRequest::Region { len, kind, room } => {
                    ServiceResponse::Region(self.0.make(len, kind, room))
                }
                ServiceRequest::RegionBytes => ServiceResponse::RegionBytes(self.0.bytes()),
                _ => ServiceResponse::Refused,
            }
        }

        fn notify(&self, _: Notification) -> bool {
            false
        }
    }

    fn limiter(max_memory: u64) -> Limiter {
        let ledger = Arc::new(Ledger::new(u64::MAX, false));
        let services = Regions(Maker::new(ledger, max_memory));
        Limiter::new(
            &Limits::default().max_memory(max_memory),
            Arc::new(services),
        )
    }

    /// Polls once: nothing here ever waits.
    fn now<T>(work: impl Future<Output = T>) -> T {
        let work = std::pin::pin!(work);
        crate::blocking::wait(work, None).expect("it is done")
    }

    fn grows(limiter: &mut Limiter, from: usize, to: usize, maximum: Option<usize>) -> bool {
        now(ResourceLimiterAsync::memory_growing(
            limiter, from, to, maximum,
        ))
        .expect("asked")
    }

    fn make(limiter: &mut Limiter, len: u64) -> Option<(Region, RegionSlot)> {
        let (draft, slot) = now(limiter.make(len, Kind::Exclusive)).ok()?;
        Some((draft.finish().expect("a region"), slot))
    }

    #[test]
    fn memories_are_summed() {
        let mut limiter = limiter(100);
        assert!(grows(&mut limiter, 0, 60, None));
        assert!(!grows(&mut limiter, 0, 60, None));
        assert!(grows(&mut limiter, 60, 100, None));
        assert_eq!((limiter.peak_memory(), limiter.refused()), (100, 1));
    }

    #[test]
    fn regions_and_memories_are_summed() {
        const PAGE: u64 = 64 << 10;
        let page = PAGE as usize;
        let mut limiter = limiter(10 * PAGE);
        let first = make(&mut limiter, 6 * PAGE).expect("fits");
        assert!(!grows(&mut limiter, 0, 6 * page, None));
        assert!(grows(&mut limiter, 0, 3 * page, None));
        assert!(make(&mut limiter, 2 * PAGE).is_none());
        let second = make(&mut limiter, PAGE).expect("fits");
        assert!(!grows(&mut limiter, 0, 1, None));
        assert_eq!((limiter.peak_memory(), limiter.refused()), (10 * PAGE, 3));
        // Memory of dropped regions is available again at once, for either.
        drop(first);
        assert!(grows(&mut limiter, 3 * page, 9 * page, None));
        assert!(make(&mut limiter, 1).is_none());
        drop(second);
        make(&mut limiter, 1).expect("what was given back");
        assert_eq!(limiter.held.load(Relaxed), 0);
    }

    #[test]
    fn what_the_host_keeps_counts_as_memory() {
        let mut limiter = limiter(100);
        assert!(grows(&mut limiter, 0, 60, None));
        assert!(limiter.keep(30));
        assert!(!limiter.keep(11));
        assert!(!grows(&mut limiter, 60, 71, None));
        assert!(grows(&mut limiter, 60, 70, None));
        limiter.release(30);
        assert!(grows(&mut limiter, 70, 100, None));
        assert!(limiter.can_return(100) && !limiter.can_return(101));
        assert_eq!((limiter.peak_memory(), limiter.refused()), (100, 3));
    }

    #[test]
    fn what_another_counted_is_taken_over_where_it_fits() {
        let mut other = limiter(1 << 30);
        assert!(grows(&mut other, 0, 60, None));
        assert!(now(ResourceLimiterAsync::table_growing(&mut other, 0, 10, None)).expect("asked"));
        let fits = |change: fn(&mut Limiter)| {
            let mut limiter = limiter(100);
            change(&mut limiter);
            limiter.takes_over(&other).then_some(limiter)
        };
        assert!(fits(|limiter| limiter.max_memory = 59).is_none());
        assert!(fits(|limiter| limiter.max_table_elements = 9).is_none());
        assert!(fits(|limiter| limiter.max_instances = 999).is_none());
        let mut limiter = fits(|_| {}).expect("fits");
        assert!(!grows(&mut limiter, 60, 101, None));
        assert!(grows(&mut limiter, 60, 100, None));
        assert_eq!(limiter.peak_memory(), 100);
    }

    #[test]
    fn regions_are_counted() {
        let limiter = limiter(100);
        let mut held: Vec<_> = (0..MAX_REGIONS)
            .map(|_| limiter.slot().expect("fits"))
            .collect();
        assert!(limiter.slot().is_none() && !limiter.holds_too_many());
        held.push(limiter.slot_for_received());
        assert!(limiter.holds_too_many());
        held.truncate(MAX_REGIONS - 1);
        assert!(limiter.slot().is_some());
        assert_eq!(limiter.refused(), 0);
    }

    #[test]
    fn own_maximum_is_not_our_refusal() {
        let mut limiter = limiter(100);
        assert!(!grows(&mut limiter, 0, 80, Some(40)));
        assert_eq!(limiter.refused(), 0);
    }
}
