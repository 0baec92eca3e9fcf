// AG Grid over an index of rows: it asks for the few that are in sight, so that 100,000 cost what 100 do.

import {
  CellStyleModule,
  ColumnApiModule,
  EventApiModule,
  InfiniteRowModelModule,
  ModuleRegistry,
  RowStyleModule,
  ScrollApiModule,
  TooltipModule,
  createGrid,
  themeQuartz,
} from "ag-grid-community";

ModuleRegistry.registerModules([
  CellStyleModule,
  ColumnApiModule,
  EventApiModule,
  InfiniteRowModelModule,
  RowStyleModule,
  ScrollApiModule,
  TooltipModule,
]);

const theme = themeQuartz.withParams({
  backgroundColor: "var(--surface)",
  foregroundColor: "var(--text)",
  headerBackgroundColor: "var(--raised)",
  headerTextColor: "var(--text)",
  borderColor: "var(--line)",
  accentColor: "var(--accent)",
  rowHoverColor: "var(--hover)",
  oddRowBackgroundColor: "var(--surface)",
  fontFamily: "inherit",
  fontSize: 13,
  headerFontSize: 13,
  spacing: 5,
  wrapperBorderRadius: 6,
  browserColorScheme: "inherit",
});

/**
 * @param columns AG Grid column definitions.
 * @param on `{open(row), sort(name, isDescending)}`.
 * @returns `{show(list), setColumns(columns, rowHeight), sortBy(name, isDescending)}`; `list` holds row numbers, or -1 - code for
 * a heading, and the columns are given `{entry}`.
 */
export function makeGrid(element, columns, label, on) {
  let list = new Int32Array();
  let isSilent = false;
  const entryOf = (data) => (data && data.entry >= 0 ? data.entry : null);
  const api = createGrid(element, {
    theme,
    columnDefs: columns,
    defaultColDef: { sortable: true, resizable: true, suppressMovable: true, sortingOrder: ["asc", "desc", null] },
    rowModelType: "infinite",
    cacheBlockSize: 200,
    maxBlocksInCache: 20,
    tooltipShowDelay: 300,
    suppressColumnVirtualisation: true,
    suppressMultiSort: true,
    suppressCellFocus: false,
    ensureDomOrder: true,
    loadThemeGoogleFonts: false,
    rowClassRules: { heading: (params) => params.data?.entry < 0 },
    onRowClicked: ({ data }) => entryOf(data) !== null && on.open(entryOf(data)),
    onCellKeyDown: ({ data, event }) => {
      if (event.key === "Enter" && entryOf(data) !== null) on.open(entryOf(data));
    },
    onSortChanged: () => {
      if (isSilent) return;
      const sorted = api.getColumnState().find((column) => column.sort);
      on.sort(sorted?.colId ?? null, sorted?.sort === "desc");
    },
  });
  element.querySelector("[role=grid],[role=treegrid]")?.setAttribute("aria-label", label);
  const datasource = () => ({
    rowCount: list.length,
    getRows: ({ startRow, endRow, successCallback }) =>
      successCallback(
        Array.from(list.subarray(startRow, endRow), (entry) => ({ entry })),
        list.length,
      ),
  });
  return {
    show(newList) {
      list = newList;
      api.setGridOption("datasource", datasource());
    },
    setColumns(definitions, rowHeight) {
      api.updateGridOptions({ columnDefs: definitions, rowHeight: rowHeight ?? undefined });
    },
    sortBy(name, isDescending) {
      isSilent = true;
      api.applyColumnState({
        state: name ? [{ colId: name, sort: isDescending ? "desc" : "asc" }] : [],
        defaultState: { sort: null },
      });
      isSilent = false;
    },
  };
}
