/* shapes.c - the table of shapes.h, from the models' published config.json files. */
#include "shapes.h"
#include "families.h"
#include <stdio.h>
#include <string.h>

typedef struct shape_row {
    const char *name, *family;
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab, ctx;
    double theta;
    bool tied;
    double llama3_factor; /* of the llama3 scaling of RoPE; 0: none */
} shape_row;

static const shape_row rows[] = {
    /* name            family  L  hidden  H  KV   D    ffn   vocab     ctx    theta  tied   llama3 */
    {"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, true, 32},
    {"llama-3.2-3b", "llama", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000, true, 32},
    {"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000, false, 8},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 10000, false, 0},
    {"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, true, 0},
    {"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1000000, false, 0},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1000000, true, 0},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, 1000000, true, 0},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1000000, false, 0},
    {"qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 128, 13824, 152064, 32768, 1000000, false, 0},
    {"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1000000, true, 0},
    {"qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, 1000000, true, 0},
    {"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, 1000000, true, 0},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1000000, false, 0},
};
#define N_ROWS (sizeof rows / sizeof rows[0])

/* Models that need more than a row: the keys of their published config.json that say what is computed. */
static const struct {
    const char *name, *config;
} published[] = {
    {"qwen3-30b-a3b",
     "{'model_type':'qwen3_moe','num_hidden_layers':48,'hidden_size':2048,'num_attention_heads':32,'num_key_value_"
     "heads':4,"
     "'head_dim':128,'intermediate_size':6144,'num_experts':128,'num_experts_per_tok':8,'moe_intermediate_size':768,"
     "'norm_topk_prob':true,'vocab_size':151936,'max_position_embeddings':40960,'rope_theta':1000000,"
     "'tie_word_embeddings':false}"},
    {"mixtral-8x7b", "{'model_type':'mixtral','num_hidden_layers':32,'hidden_size':4096,'num_attention_heads':32,'num_"
                     "key_value_heads':8,"
                     "'intermediate_size':14336,'num_local_experts':8,'num_experts_per_tok':2,'vocab_size':32000,"
                     "'max_position_embeddings':32768,'rope_theta':1000000,'tie_word_embeddings':false}"},
    {"olmoe-7b-a1b",
     "{'model_type':'olmoe','num_hidden_layers':16,'hidden_size':2048,'num_attention_heads':16,'num_key_value_heads':"
     "16,"
     "'intermediate_size':1024,'num_experts':64,'num_experts_per_tok':8,'norm_topk_prob':false,'vocab_size':50304,"
     "'max_position_embeddings':4096,'tie_word_embeddings':false}"},
    {"gpt-oss-20b",
     "{'model_type':'gpt_oss','num_hidden_layers':24,'hidden_size':2880,'num_attention_heads':64,'num_key_value_heads':"
     "8,"
     "'head_dim':64,'intermediate_size':2880,'num_local_experts':32,'num_experts_per_tok':4,'sliding_window':128,"
     "'swiglu_limit':7.0,'vocab_size':201088,'max_position_embeddings':131072,'rope_theta':150000,'rope_scaling':{"
     "'rope_type':'yarn','factor':32.0,'beta_fast':32.0,'beta_slow':1.0,'truncate':false,"
     "'original_max_position_embeddings':4096},'tie_word_embeddings':false}"},
    {"glm-4.5-air",
     "{'model_type':'glm4_moe','num_hidden_layers':46,'hidden_size':4096,'num_attention_heads':96,'num_key_value_heads'"
     ":8,"
     "'head_dim':128,'intermediate_size':10944,'n_routed_experts':128,'num_experts_per_tok':8,'n_shared_experts':1,"
     "'moe_intermediate_size':1408,'first_k_dense_replace':1,'attention_bias':true,'use_qk_norm':false,"
     "'partial_rotary_factor':0.5,'vocab_size':151552,'max_position_embeddings':131072,'rope_theta':1000000,"
     "'tie_word_embeddings':false}"},
    {"glm-4.7-flash",
     "{'model_type':'glm4_moe_lite','num_hidden_layers':47,'hidden_size':2048,'num_attention_heads':20,"
     "'num_key_value_heads':20,'intermediate_size':10240,'moe_intermediate_size':1536,'n_routed_experts':64,"
     "'num_experts_per_tok':4,'n_shared_experts':1,'routed_scaling_factor':1.8,'q_lora_rank':768,'kv_lora_rank':512,"
     "'qk_nope_head_dim':192,'qk_rope_head_dim':64,'v_head_dim':256,'rope_interleave':true,'vocab_size':154880,"
     "'max_position_embeddings':202752,'rope_theta':1000000,'tie_word_embeddings':false}"},
    {"deepseek-v2-lite",
     "{'model_type':'deepseek_v2','num_hidden_layers':27,'hidden_size':2048,'num_attention_heads':16,"
     "'num_key_value_heads':16,'intermediate_size':10944,'moe_intermediate_size':1408,'n_routed_experts':64,"
     "'num_experts_per_tok':6,'n_shared_experts':2,'first_k_dense_replace':1,'q_lora_rank':null,'kv_lora_rank':512,"
     "'qk_nope_head_dim':128,'qk_rope_head_dim':64,'v_head_dim':128,'topk_method':'greedy','vocab_size':102400,"
     "'max_position_embeddings':163840,'rope_theta':10000,'rope_scaling':{'type':'yarn','factor':40,'mscale':0.707,"
     "'mscale_all_dim':0.707,'beta_fast':32,'beta_slow':1,'original_max_position_embeddings':4096},"
     "'tie_word_embeddings':false}"},
    {"smollm3-3b",
     "{'model_type':'smollm3','num_hidden_layers':36,'hidden_size':2048,'num_attention_heads':16,'num_key_v"
     "alue_heads':4,'intermediate_size':11008,'vocab_size':128256,'max_position_embeddings':65536,'rope_th"
     "eta':5000000,'tie_word_embeddings':true}"},
    {"gemma-3-1b",
     "{'model_type':'gemma3_text','num_hidden_layers':26,'hidden_size':1152,'num_attention_heads':4,'num_ke"
     "y_value_heads':1,'head_dim':256,'intermediate_size':6912,'vocab_size':262144,'max_position_embedding"
     "s':32768,'rope_theta':1000000,'tie_word_embeddings':true,'sliding_window':512}"},
    {"gemma-3-4b",
     "{'model_type':'gemma3_text','num_hidden_layers':34,'hidden_size':2560,'num_attention_heads':8,'num_ke"
     "y_value_heads':4,'head_dim':256,'intermediate_size':10240,'vocab_size':262208,'max_position_embeddin"
     "gs':131072,'rope_theta':1000000,'tie_word_embeddings':true,'sliding_window':1024}"},
    {"gemma-3-27b",
     "{'model_type':'gemma3_text','num_hidden_layers':62,'hidden_size':5376,'num_attention_heads':32,'num_k"
     "ey_value_heads':16,'head_dim':128,'intermediate_size':21504,'vocab_size':262208,'max_position_embedd"
     "ings':131072,'rope_theta':1000000,'tie_word_embeddings':true,'sliding_window':1024}"},
    {"qwen3.8-27b",
     "{'model_type':'qwen3_5_text','num_hidden_layers':64,'hidden_size':5120,'num_attention_heads':24,'num_"
     "key_value_heads':4,'head_dim':256,'intermediate_size':17408,'vocab_size':248320,'max_position_embedd"
     "ings':262144,'rope_theta':10000000,'tie_word_embeddings':false,'linear_num_key_heads':16,'linear_num"
     "_value_heads':48,'mtp_num_hidden_layers':1}"},
    {"qwen3.6-35b-a3b",
     "{'model_type':'qwen3_5_moe_text','num_hidden_layers':40,'hidden_size':2048,'num_attention_heads':16,"
     "'num_key_value_heads':2,'head_dim':256,'linear_num_key_heads':16,'linear_num_value_heads':32,'num_experts':256,"
     "'num_experts_per_tok':8,'moe_intermediate_size':512,'shared_expert_intermediate_size':512,'vocab_size':248320,"
     "'max_position_embeddings':262144,'rope_theta':10000000,'tie_word_embeddings':false,'mtp_num_hidden_layers':1}"},
    {"gemma-2-9b", "{'model_type':'gemma2','num_hidden_layers':42,'hidden_size':3584,'num_attention_heads':16,'num_key_"
                   "value_heads':8,"
                   "'head_dim':256,'intermediate_size':14336,'vocab_size':256000,'max_position_embeddings':8192,'"
                   "sliding_window':4096,"
                   "'query_pre_attn_scalar':256,'attn_logit_softcapping':50.0,'final_logit_softcapping':30.0,'tie_word_"
                   "embeddings':true}"},
    {"gemma-4-e2b",
     "{'model_type':'gemma4_text','num_hidden_layers':35,'hidden_size':1536,'num_attention_heads':8,'num_key_va"
     "lue_heads':1,'head_dim':256,'global_head_dim':512,'intermediate_size':6144,'use_double_wide_mlp':true,'nu"
     "m_kv_shared_layers':20,'hidden_size_per_layer_input':256,'vocab_size_per_layer_input':262144,'vocab_size'"
     ":262144,'max_position_embeddings':131072,'sliding_window':512,'layer_types':['sliding_attention','sliding"
     "_attention','sliding_attention','sliding_attention','full_attention','sliding_attention','sliding_attenti"
     "on','sliding_attention','sliding_attention','full_attention','sliding_attention','sliding_attention','sli"
     "ding_attention','sliding_attention','full_attention','sliding_attention','sliding_attention','sliding_att"
     "ention','sliding_attention','full_attention','sliding_attention','sliding_attention','sliding_attention',"
     "'sliding_attention','full_attention','sliding_attention','sliding_attention','sliding_attention','sliding"
     "_attention','full_attention','sliding_attention','sliding_attention','sliding_attention','sliding_attenti"
     "on','full_attention'],'final_logit_softcapping':30.0,'tie_word_embeddings':true}"},
    {"gemma-4-e4b",
     "{'model_type':'gemma4_text','num_hidden_layers':42,'hidden_size':2560,'num_attention_heads':8,'num_key_va"
     "lue_heads':2,'head_dim':256,'global_head_dim':512,'intermediate_size':10240,'num_kv_shared_layers':18,'hi"
     "dden_size_per_layer_input':256,'vocab_size_per_layer_input':262144,'vocab_size':262144,'max_position_embe"
     "ddings':131072,'sliding_window':512,'final_logit_softcapping':30.0,'tie_word_embeddings':true}"},
    {"gemma-4-12b",
     "{'model_type':'gemma4_text','num_hidden_layers':48,'hidden_size':3840,'num_attention_heads':16,'num_key_value_"
     "heads':8,"
     "'head_dim':256,'global_head_dim':512,'num_global_key_value_heads':1,'attention_k_eq_v':true,'intermediate_size':"
     "15360,"
     "'num_kv_shared_layers':0,'hidden_size_per_layer_input':0,'vocab_size':262144,'max_position_embeddings':262144,"
     "'sliding_window':1024,'final_logit_softcapping':30.0,'tie_word_embeddings':true}"},
    {"gemma-4-26b-a4b",
     "{'model_type':'gemma4_text','num_hidden_layers':30,'hidden_size':2816,'num_attention_heads':16,'num_key_value_"
     "heads':8,"
     "'head_dim':256,'global_head_dim':512,'num_global_key_value_heads':2,'attention_k_eq_v':true,'intermediate_size':"
     "2112,"
     "'enable_moe_block':true,'num_experts':128,'top_k_experts':8,'moe_intermediate_size':704,'num_kv_shared_layers':0,"
     "'hidden_size_per_layer_input':0,'vocab_size':262144,'max_position_embeddings':262144,'sliding_window':1024,"
     "'final_logit_softcapping':30.0,'tie_word_embeddings':true}"},
    {"gemma-4-31b",
     "{'model_type':'gemma4_text','num_hidden_layers':60,'hidden_size':5376,'num_attention_heads':32,'num_key_v"
     "alue_heads':16,'head_dim':256,'global_head_dim':512,'num_global_key_value_heads':4,'attention_k_eq_v':tru"
     "e,'intermediate_size':21504,'num_kv_shared_layers':0,'hidden_size_per_layer_input':0,'vocab_size':262144,"
     "'max_position_embeddings':262144,'sliding_window':1024,'final_logit_softcapping':30.0,'tie_word_embedding"
     "s':true}"},
    {"qwen3-next-80b-a3b",
     "{'model_type':'qwen3_next','num_hidden_layers':48,'hidden_size':2048,'num_attention_heads':16,'num_key_value_"
     "heads':2,"
     "'head_dim':256,'intermediate_size':5120,'linear_num_key_heads':16,'linear_num_value_heads':32,'num_experts':512,"
     "'num_experts_per_tok':10,'moe_intermediate_size':512,'shared_expert_intermediate_size':512,'vocab_size':151936,"
     "'max_position_embeddings':262144,'rope_theta':10000000,'tie_word_embeddings':false}"},
    {"ministral-3-3b",
     "{'model_type':'ministral3','num_hidden_layers':26,'hidden_size':3072,'num_attention_heads':32,'num_key_value_"
     "heads':8,"
     "'head_dim':128,'intermediate_size':9216,'vocab_size':131072,'max_position_embeddings':262144,'sliding_window':"
     "null,"
     "'rope_parameters':{'rope_type':'yarn','rope_theta':1000000.0,'factor':16.0,'beta_fast':32.0,'beta_slow':1.0,"
     "'mscale':1.0,'mscale_all_dim':1.0,'original_max_position_embeddings':16384,'llama_4_scaling_beta':0.1},"
     "'tie_word_embeddings':true}"},
    {"ministral-3-8b",
     "{'model_type':'ministral3','num_hidden_layers':34,'hidden_size':4096,'num_attention_heads':32,'num_key_value_"
     "heads':8,"
     "'head_dim':128,'intermediate_size':14336,'vocab_size':131072,'max_position_embeddings':262144,'sliding_window':"
     "null,"
     "'rope_parameters':{'rope_type':'yarn','rope_theta':1000000.0,'factor':16.0,'beta_fast':32.0,'beta_slow':1.0,"
     "'mscale':1.0,'mscale_all_dim':1.0,'original_max_position_embeddings':16384,'llama_4_scaling_beta':0.1},"
     "'tie_word_embeddings':false}"},
    {"olmo-2-7b", "{'model_type':'olmo2','num_hidden_layers':32,'hidden_size':4096,'num_attention_heads':32,'num_key_"
                  "value_heads':32,"
                  "'intermediate_size':11008,'vocab_size':100352,'max_position_embeddings':4096,'rope_theta':500000,"
                  "'tie_word_embeddings':false}"},
    {"olmo-3-7b",
     "{'model_type':'olmo3','num_hidden_layers':32,'hidden_size':4096,'num_attention_heads':32,'num_key_value_heads':"
     "32,"
     "'intermediate_size':11008,'vocab_size':100278,'max_position_embeddings':65536,'sliding_window':4096,"
     "'rope_theta':500000,'rope_scaling':{'rope_type':'yarn','factor':8.0,'original_max_position_embeddings':8192,"
     "'beta_fast':32.0,'beta_slow':1.0,'attention_factor':1.2079441541679836},'tie_word_embeddings':false}"},
    {"phi-4",
     "{'model_type':'phi3','num_hidden_layers':40,'hidden_size':5120,'num_attention_heads':40,'num_key_value_heads':10,"
     "'intermediate_size':17920,'vocab_size':100352,'max_position_embeddings':16384,'rope_theta':250000,"
     "'sliding_window':null,'tie_word_embeddings':false}"},
    {"granite-3.3-8b",
     "{'model_type':'granite','num_hidden_layers':40,'hidden_size':4096,'num_attention_heads':32,'num_key_value_heads':"
     "8,"
     "'intermediate_size':12800,'vocab_size':49159,'max_position_embeddings':131072,'rope_theta':10000000,"
     "'embedding_multiplier':12.0,'attention_multiplier':0.0078125,'residual_multiplier':0.22,'logits_scaling':16.0,"
     "'tie_word_embeddings':true}"},
};
#define N_PUBLISHED (sizeof published / sizeof published[0])

const char *kvi_shape_name(uint32_t index)
{
    if (index < N_ROWS) return rows[index].name;
    return index - N_ROWS < N_PUBLISHED ? published[index - N_ROWS].name : NULL;
}
const char *kvrt_shape_name(uint32_t index) { return kvi_shape_name(index); }

static void from_row(const shape_row *row, kvi_model_config *c)
{
    memset(c, 0, sizeof *c);
    kvi_family_apply(kvi_family_of_type(row->family), c);
    c->n_attentions = c->n_ropes = 1;
    (void)snprintf(c->architecture, sizeof c->architecture, "%s", row->name);
    c->n_layers = row->n_layers, c->hidden_size = row->hidden,
    c->attention[0] =
        (kvi_attention){.n_heads = row->n_heads, .n_kv_heads = row->n_kv_heads, .head_dim = row->head_dim};
    c->ffn_size = row->ffn, c->vocab_size = row->vocab, c->ctx_model = row->ctx;
    c->rms_eps = 1e-5, c->ropes[0].theta = row->theta, c->ropes[0].n_dims = row->head_dim,
    c->tied_embeddings = row->tied;
    c->bos_id = -1;
    if (!(row->llama3_factor > 0)) return;
    c->ropes[0].scaling = KVI_ROPE_LLAMA3;
    c->ropes[0].factor = row->llama3_factor;
    c->ropes[0].low_freq_factor = 1, c->ropes[0].high_freq_factor = 4, c->ropes[0].original_ctx = 8192;
}

static kvrt_status from_text(const char *name, const char *config, kvi_model_config *c, kvrt_error *error)
{
    char text[1024];
    size_t len = strlen(config);
    for (size_t i = 0; i <= len; i++) text[i] = config[i] == '\'' ? '"' : config[i];
    KVI_TRY(kvi_config_parse(text, len, NULL, 0, c, error));
    (void)snprintf(c->architecture, sizeof c->architecture, "%s", name);
    return KVRT_OK;
}

/* NAME, or NAME:LAYERS for the first so many layers of it: what is measured of a layer needs no memory for all of them. */
static kvrt_status cut_layers(const char *name, const char *count, kvi_model_config *c, kvrt_error *error)
{
    uint32_t n = 0;
    if (!*count) return KVRT_OK;
    for (count++; *count >= '0' && *count <= '9' && n <= KVI_MAX_LAYERS; count++) n = n * 10 + (uint32_t)(*count - '0');
    if (*count || n == 0 || n > c->n_layers)
        return kvi_error_set(error, KVRT_ARG, "option model.shape: found '%s', need 1 to %u layers behind the colon",
                             name, c->n_layers);
    c->n_layers = n;
    return KVRT_OK;
}

kvrt_status kvi_shape_config(const char *name, kvi_model_config *out, kvrt_error *error)
{
    char known[1500] = "";
    const size_t n = strcspn(name, ":");
    const char *each;
    for (uint32_t i = 0; (each = kvi_shape_name(i)) != NULL; i++) {
        if (strlen(each) == n && strncmp(each, name, n) == 0) {
            if (i < N_ROWS) from_row(&rows[i], out);
            else KVI_TRY(from_text(each, published[i - N_ROWS].config, out, error));
            return cut_layers(name, name + n, out, error);
        }
        const size_t len = strlen(known);
        (void)snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", each);
    }
    return kvi_error_set(error, KVRT_ARG, "option model.shape: found '%s', need one of %s", name, known);
}
