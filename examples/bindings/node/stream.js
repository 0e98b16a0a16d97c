// stream.js - text beside Node's event loop: node stream.js MODULE MODEL TEXT [MICROSECONDS]. Two forks answer together, a few microseconds (2,000
// unless told) at a time; what else the loop has to do has its turn between two steps.
'use strict'
const [, , module_path, model, text, budget = '2000'] = process.argv
if (!text) { console.error('usage: node stream.js MODULE MODEL TEXT [MICROSECONDS]'); process.exit(2) }
const kvrt = require(require('path').resolve(module_path))

let engine
try {
    engine = kvrt.open({'model.path': model, 'ctx.sessions': 2, 'device.backend': 'cpu'})
} catch (error) {
    console.error(`${error.code}: ${error.message}`)
    process.exit(1)
}
const one = kvrt.session(engine, {'sample.temperature': 0, 'gen.max_tokens': 24})
kvrt.sync(one, kvrt.tokenize(engine, text))
const two = kvrt.fork(one), said = new Map(), running = new Set()
for (const session of [one, two]) {
    const request = kvrt.submit(session, {})
    said.set(request, '')
    running.add(request)
}
let steps = 0, others = 0

function other() { // stands for the rest of the application
    others++
    if (running.size) setImmediate(other)
}

function turn() {
    steps++
    kvrt.step(engine, Number(budget))
    for (let event; (event = kvrt.poll(engine));) {
        if (event.type === kvrt.TEXT || event.type === kvrt.DONE) said.set(event.request, said.get(event.request) + event.text)
        if (event.type === kvrt.DONE || event.type === kvrt.ERROR) running.delete(event.request)
    }
    if (running.size) return setImmediate(turn)
    const [a, b] = said.values()
    console.log(a)
    console.log(`the fork says ${a === b ? 'the same' : 'something else'}; ${kvrt.tokens(one).length} tokens; ${steps} steps, ${others} turns of others`)
    kvrt.close(engine)
    try { kvrt.tokens(one) } catch (error) { console.log(error.code) }
}
setImmediate(other)
turn()
