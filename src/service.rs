//! What every service of a layer has.

/// Accessors of the wrapped service, as tower-http's services have them.
macro_rules! accessors {
    () => {
        /// Returns a reference to the wrapped service.
        pub fn get_ref(&self) -> &S {
            &self.inner
        }

        /// Returns a mutable reference to the wrapped service.
        pub fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        /// Returns the wrapped service.
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}

pub(crate) use accessors;
