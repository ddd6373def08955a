// The panel: an extension of JupyterLab 4 as a bundler would leave it, small enough to be written by hand.
// JupyterLab loads this script, calls `init` with the modules that it shares, and asks `get` for the module that package.json names
// (jupyterlab/staging/bootstrap.js and index.js; https://webpack.js.org/concepts/module-federation).
"use strict";

(() => {
  const NAME = "stoker-gpu";
  const ICON =
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><g class="jp-icon3" fill="#616161">' +
    '<path fill-rule="evenodd" d="M5 6h18v11h-2v2h-9v-2H5zm12.5 9a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z"/><path d="M1 5h3v14H3V7H1z"/></g></svg>';
  const STYLE = `
    #${NAME} { overflow: auto; padding: 12px; user-select: text; color: var(--jp-ui-font-color1); background: var(--jp-layout-color1);
      font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); line-height: 1.5; }
    #${NAME} h2 { margin: 0 0 8px; font-size: var(--jp-ui-font-size2); font-weight: 600; }
    #${NAME} p { margin: 0 0 8px; overflow-wrap: anywhere; }
    #${NAME} code { padding: 1px 3px; font-family: var(--jp-code-font-family); font-size: var(--jp-code-font-size);
      color: var(--jp-ui-font-color1); background: var(--jp-layout-color2); }`;

  let modules = {};

  /** The module that JupyterLab itself uses: the one that is loaded, else the newest. */
  async function shared(name) {
    const versions = Object.entries(modules[name]).sort(([one], [other]) => other.localeCompare(one, "en", { numeric: true }));
    const [, module] = versions.find(([, { loaded }]) => loaded) ?? versions[0];
    return (await module.get())();
  }

  /** An element with text in it, which is never read as HTML. */
  function element(kind, ...inside) {
    const made = document.createElement(kind);
    made.append(...inside);
    return made;
  }

  function content(why) {
    const code = text => element("code", text);
    return [
      element("style", STYLE),
      element("h2", "No GPU"),
      element("p", why || "Programs can use no NVIDIA GPU here."),
      element("p", code("stoker doctor"), " on the machine itself says what is in the way, and how to mend it."),
      element("p", code("stoker up notebook --gpus all"), " starts the notebook with all GPUs of the machine, once ", code("stoker stop"), " has ended this one."),
    ];
  }

  async function extension() {
    const [{ ILayoutRestorer }, { PageConfig }, { LabIcon }, { Widget }] = await Promise.all(
      ["@jupyterlab/application", "@jupyterlab/coreutils", "@jupyterlab/ui-components", "@lumino/widgets"].map(shared)
    );
    const activate = (app, restorer) => {
      const panel = new Widget();
      panel.id = NAME;
      panel.title.caption = "GPU";
      panel.title.icon = new LabIcon({ name: `${NAME}:icon`, svgstr: ICON });
      panel.node.append(...content(PageConfig.getOption("stokerWithoutGpu")));
      // Where jupyterlab-nvdashboard has its own.
      app.shell.add(panel, "left", { rank: 200 });
      restorer?.add(panel, NAME);
    };
    const description = "Says why there is no GPU, in the place of the panel that would show it.";
    return { __esModule: true, default: { id: `${NAME}:panel`, description, autoStart: true, optional: [ILayoutRestorer], activate } };
  }

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB[NAME] = {
    init: given => {
      modules = given;
    },
    get: async () => {
      const made = await extension();
      return () => made;
    },
  };
})();
