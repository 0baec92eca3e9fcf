// NiiVue also reads Zarr, of which there is none here: its reader with all codecs is most of the library.

const none = () => {
  throw new Error("Zarr is not read here");
};

export { none as FetchStore, none as get, none as open, none as root };
