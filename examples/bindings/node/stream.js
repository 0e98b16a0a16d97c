// stream.js - text beside Node's event loop: node stream.js MODULE MODEL TEXT. Two forks answer together; a timer shows that the loop is not held up.
'use strict'
const [, , module_path, model, text] = process.argv
if (!text) { console.error('usage: node stream.js MODULE MODEL TEXT'); process.exit(2) }
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
let ticks = 0
const timer = setInterval(() => ticks++, 1)

function turn() {
    kvrt.step(engine, 2000)
    for (let event; (event = kvrt.poll(engine));) {
        if (event.type === kvrt.TEXT || event.type === kvrt.DONE) said.set(event.request, said.get(event.request) + event.text)
        if (event.type === kvrt.DONE || event.type === kvrt.ERROR) running.delete(event.request)
    }
    if (running.size) return setImmediate(turn)
    clearInterval(timer)
    const [a, b] = said.values()
    console.log(a)
    console.log(`the fork says ${a === b ? 'the same' : 'something else'}; ${kvrt.tokens(one).length} tokens; the loop ran ${ticks > 0}`)
    kvrt.close(engine)
    try { kvrt.tokens(one) } catch (error) { console.log(error.code) }
}
turn()
