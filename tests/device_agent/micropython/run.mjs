// Runs a MicroPython script under Node.js:
//   node run.mjs INSTALLED_DIRECTORY SCRIPT FILE...
// Each FILE is put into MicroPython's root folder under its own name, so that SCRIPT can import or
// open it. What the script prints goes to standard output; an exception is an exit status of 1.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [installed, script, ...files] = process.argv.slice(2);
const entry = path.join(
  installed,
  "node_modules/@micropython/micropython-webassembly-pyscript/micropython.mjs",
);
const { loadMicroPython } = await import(pathToFileURL(entry).href);
const micropython = await loadMicroPython({
  heapsize: 64 * 1024 * 1024,
  stdout: (line) => process.stdout.write(line + "\n"),
  linebuffer: true,
});
for (const file of files) {
  micropython.FS.writeFile("/" + path.basename(file), fs.readFileSync(file));
}
try {
  micropython.runPython(fs.readFileSync(script, "utf8"));
} catch (error) {
  process.stderr.write(error.message + "\n");
  process.exitCode = 1;
}
