// transformers.js on hub folders: reads jobs as JSON from stdin, writes what it found for each.
// Run in a folder where `npm install @huggingface/transformers` has been run.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname } from "node:path";

const require = createRequire(process.cwd() + "/");
const library = require("@huggingface/transformers");
const { AutoTokenizer, env, pipeline } = library;

env.allowRemoteModels = false;
env.useFSCache = false;

const HEADS = {
  base: "AutoModel",
  "masked-lm": "AutoModelForMaskedLM",
  "sequence-classification": "AutoModelForSequenceClassification",
  "token-classification": "AutoModelForTokenClassification",
  "question-answering": "AutoModelForQuestionAnswering",
};

async function answer(run, job, [text, pair]) {
  if (job.labels.length > 0) return await run(text, job.labels);
  if (job.pipeline === "question-answering") return await run(text, pair);
  if (job.pipeline === "feature-extraction") {
    return (await run(text, { pooling: "mean" })).tolist()[0];
  }
  if (job.pipeline === "token-classification") return await run(text, { ignore_labels: [] });
  return await run(text, { top_k: 3 });
}

const found = [];
for (const job of JSON.parse(readFileSync(0, "utf-8"))) {
  env.localModelPath = dirname(job.folder);
  const name = basename(job.folder);
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await library[HEADS[job.task]].from_pretrained(name, { dtype: job.dtype });
  const run = await pipeline(job.pipeline, name, { dtype: job.dtype });
  const texts = [];
  for (const [text, pair] of job.texts) {
    const inputs = tokenizer(text, { text_pair: pair, truncation: true });
    const given = await model(inputs);
    const outputs = {};
    for (const [key, value] of Object.entries(given)) {
      if (value?.to) outputs[key] = value.to("float32").tolist();
    }
    const ids = inputs.input_ids.tolist()[0].map(Number);
    texts.push({ ids, outputs, pipeline: await answer(run, job, [text, pair]) });
  }
  found.push(texts);
}
console.log(JSON.stringify({ client: `transformers.js ${env.version}`, found }));
